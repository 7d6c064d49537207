// The catalogue: which message travels on which subject, who says it, and how it is kept. The only place where a
// subject is written down.
//
// Grammar: `pl.<kind>.v1.<context>.<entity>.<event>.<key…>`
//   kind     `evt` durable event · `doc` latest value, one per key, kept for ever · `smp` lossy sample on core NATS ·
//            `log` log batches
//   context  the service that speaks
//   key      what the event is about; consumers filter by it. Each token is checked by `keyToken`.
import { hash } from "node:crypto";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { PlatformError } from "@pilotlight/errors";
import { ScaleDecidedSchema } from "./gen/pilotlight/events/v1/autoscaler_pb.js";
import {
  ApplicationDeletedSchema,
  ModelPermissionSetSchema,
  VersionActivationRequestedSchema,
  VersionCreatedSchema,
} from "./gen/pilotlight/events/v1/control_pb.js";
import { LoadSampledSchema, RequestFinishedSchema } from "./gen/pilotlight/events/v1/gateway_pb.js";
import {
  ImageFailedSchema,
  ImageHeldSchema,
  ImageProgressedSchema,
  ImageReadySchema,
  ImageWantedSchema,
} from "./gen/pilotlight/events/v1/image_pb.js";
import { LogBatchSchema } from "./gen/pilotlight/events/v1/logs_pb.js";
import { NodeLostSchema, NodeReportedSchema } from "./gen/pilotlight/events/v1/node_pb.js";
import {
  ReplicaReportedSchema,
  ReplicaUnwantedSchema,
  ReplicaWantedSchema,
} from "./gen/pilotlight/events/v1/replica_pb.js";
import {
  BoundsSetSchema,
  RolloutMovedSchema,
  TrafficSetSchema,
} from "./gen/pilotlight/events/v1/rollout_pb.js";
import {
  WeightsFailedSchema,
  WeightsHeldSchema,
  WeightsLoadedSchema,
  WeightsProgressedSchema,
  WeightsWantedSchema,
} from "./gen/pilotlight/events/v1/weights_pb.js";
import { WorkerLoadSampledSchema } from "./gen/pilotlight/events/v1/worker_pb.js";

/** How a message is kept. */
export type EventKind = "evt" | "doc" | "smp" | "log";

/** One entry of the catalogue. `Key` names the tokens behind the fixed part of the subject. */
export type EventType<Desc extends DescMessage = DescMessage> = {
  kind: EventKind;
  context: string;
  entity: string;
  event: string;
  schema: Desc;
  /** Names of the key's tokens, for documentation and for filters. */
  keyNames: readonly string[];
  /** The key of a message, one string per name. */
  keyOf: (message: MessageShape<Desc>) => readonly string[];
  summary: string;
};

function define<Desc extends DescMessage>(entry: EventType<Desc>): EventType<Desc> {
  return entry;
}

/** Every message that travels on NATS. */
export const EVENTS = {
  versionCreated: define({
    kind: "evt",
    context: "control",
    entity: "version",
    event: "created",
    schema: VersionCreatedSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "A version of an application was accepted.",
  }),
  versionActivationRequested: define({
    kind: "evt",
    context: "control",
    entity: "version",
    event: "activation_requested",
    schema: VersionActivationRequestedSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "A version is to take over the application's traffic.",
  }),
  applicationDeleted: define({
    kind: "evt",
    context: "control",
    entity: "application",
    event: "deleted",
    schema: ApplicationDeletedSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "An application and everything it runs is to go.",
  }),
  modelPermissionSet: define({
    kind: "doc",
    context: "control",
    entity: "model_permission",
    event: "set",
    schema: ModelPermissionSetSchema,
    // A URI cannot be part of a subject.
    keyNames: ["source_sha256"],
    keyOf: (m) => [hash("sha256", m.source)],
    summary: "Whether replicas that start from now on may load a model.",
  }),
  imageWanted: define({
    kind: "evt",
    context: "control",
    entity: "image",
    event: "wanted",
    schema: ImageWantedSchema,
    keyNames: [],
    keyOf: () => [],
    summary: "Containers will start from this image soon: convert it now.",
  }),
  imageReady: define({
    kind: "evt",
    context: "image_converter",
    entity: "image",
    event: "ready",
    schema: ImageReadySchema,
    keyNames: [],
    keyOf: () => [],
    summary: "An image can be mounted lazily.",
  }),
  imageFailed: define({
    kind: "evt",
    context: "image_converter",
    entity: "image",
    event: "failed",
    schema: ImageFailedSchema,
    keyNames: [],
    keyOf: () => [],
    summary: "An image cannot be converted.",
  }),
  imageProgressed: define({
    kind: "smp",
    context: "image_converter",
    entity: "image",
    event: "progressed",
    schema: ImageProgressedSchema,
    keyNames: [],
    keyOf: () => [],
    summary: "How far a conversion is.",
  }),
  imageHeld: define({
    kind: "smp",
    context: "node_agent",
    entity: "image",
    event: "held",
    schema: ImageHeldSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A node has an image, or a part of it, that it serves to other nodes of its zone.",
  }),
  weightsWanted: define({
    kind: "evt",
    context: "autoscaler",
    entity: "weights",
    event: "wanted",
    schema: WeightsWantedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A node will need these weights soon: fetch them ahead.",
  }),
  weightsLoaded: define({
    kind: "evt",
    context: "weight_streamer",
    entity: "weights",
    event: "loaded",
    schema: WeightsLoadedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A model's weights are in a node's memory.",
  }),
  weightsFailed: define({
    kind: "evt",
    context: "weight_streamer",
    entity: "weights",
    event: "failed",
    schema: WeightsFailedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A model's weights could not be loaded.",
  }),
  weightsProgressed: define({
    kind: "smp",
    context: "weight_streamer",
    entity: "weights",
    event: "progressed",
    schema: WeightsProgressedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "How far a load of weights is.",
  }),
  weightsHeld: define({
    kind: "smp",
    context: "weight_streamer",
    entity: "weights",
    event: "held",
    schema: WeightsHeldSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A node has weights that it serves to other nodes of its zone.",
  }),
  boundsSet: define({
    kind: "doc",
    context: "rollout",
    entity: "bounds",
    event: "set",
    schema: BoundsSetSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "Within which bounds the autoscaler decides.",
  }),
  trafficSet: define({
    kind: "doc",
    context: "rollout",
    entity: "traffic",
    event: "set",
    schema: TrafficSetSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "How an application's traffic is split over its versions.",
  }),
  rolloutMoved: define({
    kind: "evt",
    context: "rollout",
    entity: "rollout",
    event: "moved",
    schema: RolloutMovedSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "A rollout moved on.",
  }),
  replicaWanted: define({
    kind: "evt",
    context: "autoscaler",
    entity: "replica",
    event: "wanted",
    schema: ReplicaWantedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.assignment?.nodeId ?? ""],
    summary: "A replica is wanted on a node.",
  }),
  replicaUnwanted: define({
    kind: "evt",
    context: "autoscaler",
    entity: "replica",
    event: "unwanted",
    schema: ReplicaUnwantedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A replica is to drain and go.",
  }),
  scaleDecided: define({
    kind: "evt",
    context: "autoscaler",
    entity: "scale",
    event: "decided",
    schema: ScaleDecidedSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "The number of replicas that a deployment should have has changed.",
  }),
  nodeLost: define({
    kind: "evt",
    context: "autoscaler",
    entity: "node",
    event: "lost",
    schema: NodeLostSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A node was not heard of for too long.",
  }),
  nodeReported: define({
    kind: "smp",
    context: "node_agent",
    entity: "node",
    event: "reported",
    schema: NodeReportedSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "A node is alive, and this is what it has.",
  }),
  replicaReported: define({
    kind: "doc",
    context: "node_agent",
    entity: "replica",
    event: "reported",
    schema: ReplicaReportedSchema,
    keyNames: ["application", "replica"],
    keyOf: (m) => [m.status?.application ?? "", m.status?.replicaId ?? ""],
    summary: "A replica's latest state, with the time of every phase of its start.",
  }),
  loadSampled: define({
    kind: "smp",
    context: "gateway",
    entity: "load",
    event: "sampled",
    schema: LoadSampledSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "The load of a deployment as one gateway sees it.",
  }),
  requestFinished: define({
    kind: "smp",
    context: "gateway",
    entity: "request",
    event: "finished",
    schema: RequestFinishedSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "One request is over.",
  }),
  workerLoadSampled: define({
    kind: "smp",
    context: "worker",
    entity: "load",
    event: "sampled",
    schema: WorkerLoadSampledSchema,
    keyNames: ["application"],
    keyOf: (m) => [m.application],
    summary: "What one replica carries now.",
  }),
  logBatch: define({
    kind: "log",
    context: "node_agent",
    entity: "lines",
    event: "collected",
    schema: LogBatchSchema,
    keyNames: ["node"],
    keyOf: (m) => [m.nodeId],
    summary: "Log lines on their way to the log service.",
  }),
} as const;

export type EventName = keyof typeof EVENTS;

/** The message type of an entry of the catalogue. */
export type MessageOf<T extends EventType> = MessageShape<T["schema"]>;

const TOKEN = /^[A-Za-z0-9_-]{1,128}$/;

/** Checks one token of a subject: letters, digits, `_` and `-`, so that a name can never become a wildcard or a dot. */
export function keyToken(name: string, value: string): string {
  if (TOKEN.test(value)) return value;
  throw new PlatformError("invalidArgument", `'${value}' cannot be part of a subject`, {
    field: name,
    remedy: "Use letters, digits, '-' and '_' only, at most 128 of them.",
  });
}

const baseOf = (type: EventType) => `pl.${type.kind}.v1.${type.context}.${type.entity}.${type.event}`;

/** The CloudEvents type of an entry, e.g. `pilotlight.control.version.created.v1`. */
export const cloudEventType = (type: EventType) =>
  `pilotlight.${type.context}.${type.entity}.${type.event}.v1`;

/** The subject of one message. */
export function subjectOf<T extends EventType>(type: T, message: MessageOf<T>): string {
  const key = type.keyOf(message as MessageShape<DescMessage>);
  return [baseOf(type), ...key.map((value, i) => keyToken(type.keyNames[i] ?? "key", value))].join(".");
}

/** The subject filter of an entry: every key, or only those given by name. */
export function filterOf(type: EventType, keys: Record<string, string> = {}): string {
  const tokens = type.keyNames.map((name) => (keys[name] === undefined ? "*" : keyToken(name, keys[name])));
  return [baseOf(type), ...tokens].join(".");
}

const byBase = new Map<string, { name: EventName; type: EventType }>(
  Object.entries(EVENTS).map(([name, type]) => [
    baseOf(type as EventType),
    { name: name as EventName, type: type as EventType },
  ]),
);

/** Which entry a subject belongs to; undefined for subjects that are not in the catalogue. */
export function eventOfSubject(subject: string): { name: EventName; type: EventType } | undefined {
  return byBase.get(subject.split(".").slice(0, 6).join("."));
}
