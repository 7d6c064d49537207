// The resources of the API, each as one schema. Instants are epoch ms (`…At`), durations ms (`…Ms`), sizes bytes.
// Absent is null, never left out.
import * as z from "zod";

const at = z.number().describe("Epoch ms.");
const bytes = z.number().int().min(0);

/** Phases of a replica, in the order in which it passes them; the rows of the waterfall. */
export const REPLICA_PHASES = [
  "decided",
  "placed",
  "imageUsable",
  "processUp",
  "firstByte",
  "lastByte",
  "engineReady",
  "ready",
  "draining",
  "gone",
] as const;
export const replicaPhase = z.enum(REPLICA_PHASES);
export type ReplicaPhaseName = z.infer<typeof replicaPhase>;

export const rolloutPhase = z.enum([
  "starting",
  "gating",
  "stepping",
  "done",
  "rollingBack",
  "rolledBack",
  "failed",
]);
export type RolloutPhaseName = z.infer<typeof rolloutPhase>;

export const failure = z.object({ code: z.string(), message: z.string(), remedy: z.string() });
export type FailureView = z.infer<typeof failure>;

export const compileCache = z.object({
  outcome: z
    .enum(["hit", "held", "miss", "broken"])
    .describe("Restored from the bucket, on the node already, not there yet, or not usable."),
  bytes: z.number().int().min(0).describe("Restored, as files."),
  durationMs: z.number(),
  savedBytes: z.number().int().min(0).describe("Put into the bucket after this start."),
});
export type CompileCacheView = z.infer<typeof compileCache>;

export const replica = z.object({
  replicaId: z.string(),
  application: z.string(),
  version: z.number().int(),
  deployment: z.string(),
  nodeId: z.string(),
  phase: replicaPhase,
  marks: z.array(z.object({ phase: replicaPhase, at })),
  endpoint: z.string().nullable(),
  goneReason: z.enum(["drained", "crashed", "startFailed", "nodeLost"]).nullable(),
  failure: failure.nullable(),
  accelerators: z.number(),
  memoryMib: z.number(),
  compileCache: compileCache.nullable().default(null).describe("null: the deployment keeps none."),
  updatedAt: at,
});
export type ReplicaView = z.infer<typeof replica>;

/** A cold start: each phase with the time since the decision and the time that it took to get there. */
export const waterfall = z.object({
  replicaId: z.string(),
  application: z.string(),
  version: z.number().int(),
  deployment: z.string(),
  nodeId: z.string(),
  phase: replicaPhase,
  failure: failure.nullable(),
  compileCache: compileCache.nullable(),
  rows: z.array(
    z.object({
      phase: replicaPhase,
      at,
      sinceStartMs: z.number(),
      /** From the phase before to this one. */
      durationMs: z.number(),
    }),
  ),
  /** From decided to ready; null before it is ready. */
  totalMs: z.number().nullable(),
});
export type Waterfall = z.infer<typeof waterfall>;

export const rollout = z.object({
  rolloutId: z.string(),
  application: z.string(),
  fromVersion: z.number().int().nullable().describe("null on the first deployment."),
  toVersion: z.number().int(),
  phase: rolloutPhase,
  traffic: z.number().describe("Share of the traffic on the new version, 0..1."),
  reason: z.string(),
  startedAt: at,
  endedAt: at.nullable(),
  steps: z.array(z.object({ at, phase: rolloutPhase, traffic: z.number(), reason: z.string() })),
});
export type RolloutView = z.infer<typeof rollout>;

export const deploymentView = z.object({
  name: z.string(),
  version: z.number().int(),
  image: z.string(),
  model: z.object({ name: z.string(), source: z.string(), task: z.string() }).nullable(),
  engine: z.string(),
  starting: z.number().int(),
  ready: z.number().int(),
  draining: z.number().int(),
  wanted: z.number().int().nullable().describe("What the autoscaler decided last; null: nothing yet."),
  reason: z.string().nullable(),
});
export type DeploymentView = z.infer<typeof deploymentView>;

export const applicationSummary = z.object({
  name: z.string(),
  createdAt: at,
  wantedVersion: z.number().int().nullable(),
  servingVersion: z.number().int().nullable(),
  traffic: z.array(z.object({ version: z.number().int(), weight: z.number() })),
  rollout: rollout.nullable().describe("The latest one, running or over."),
  deployments: z.array(deploymentView).describe("Of every version that has replicas or is wanted."),
});
export type ApplicationSummary = z.infer<typeof applicationSummary>;

export const versionView = z.object({
  version: z.number().int(),
  digest: z.string(),
  createdAt: at,
  /** When it last took over all traffic; null: never. */
  servedAt: at.nullable(),
  state: z.enum(["serving", "rollingOut", "idle"]),
});
export type VersionView = z.infer<typeof versionView>;

export const applicationDetail = applicationSummary.extend({
  versions: z.array(versionView),
  replicas: z.array(replica).describe("Living ones, then those that went lately."),
});
export type ApplicationDetail = z.infer<typeof applicationDetail>;

const progress = z.object({ bytesDone: bytes, bytesTotal: bytes, bytesPerSecond: bytes }).nullable();

export const image = z.object({
  image: z.string(),
  platform: z.string(),
  state: z.enum(["wanted", "ready", "failed"]),
  manifestDigest: z.string().nullable(),
  imageId: z.string().nullable(),
  unpackedBytes: bytes,
  storedBytes: bytes,
  uploadedBytes: bytes,
  durationMs: z.number(),
  failure: failure.nullable(),
  progress: progress.describe("While it is being converted."),
  updatedAt: at,
});
export type ImageView = z.infer<typeof image>;

export const weights = z.object({
  nodeId: z.string(),
  source: z.string(),
  state: z.enum(["loading", "loaded", "failed"]),
  bytes,
  bytesFetched: bytes,
  durationMs: z.number(),
  failure: failure.nullable(),
  progress,
  updatedAt: at,
});
export type WeightsView = z.infer<typeof weights>;

/** Who let a model be deployed. */
export const modelApproval = z.object({
  by: z.string().describe("The name that the caller's token stands for; `local` where none is asked for."),
  authenticated: z.boolean().describe("Whether the caller had to present a token."),
  at,
  note: z.string(),
  current: z
    .boolean()
    .describe("False: the model has been changed since, and what was approved is not what is there."),
});
export type ModelApproval = z.infer<typeof modelApproval>;

export const model = z.object({
  source: z.string().describe("What an application file names."),
  name: z.string(),
  from: z.string(),
  revision: z.string(),
  bytes,
  licence: z.string(),
  terms: z.object({ files: z.array(z.string()), link: z.string().nullable() }),
  recipe: z.string(),
  tool: z.string().nullable(),
  quantisation: z.string().nullable(),
  ranks: z.number().int().nullable(),
  addedAt: at,
  recordSha256: z.string().describe("Of `pilotlight.json`, which names the digest of every file."),
  approval: modelApproval.nullable(),
});
export type ModelView = z.infer<typeof model>;

export const revoked = z.object({ source: z.string() });

export const node = z.object({
  nodeId: z.string(),
  state: z.enum(["alive", "silent", "lost"]),
  acceleratorKind: z.string(),
  accelerators: z.number(),
  acceleratorsUsed: z.number(),
  memoryMib: z.number(),
  memoryUsedMib: z.number(),
  cordoned: z.boolean(),
  replicas: z.number().int(),
  seenAt: at,
});
export type NodeView = z.infer<typeof node>;

export const peer = z.object({
  name: z.string(),
  address: z.string(),
  state: z.enum(["reachable", "unknown"]),
  why: z.string().nullable(),
});
export type PeerView = z.infer<typeof peer>;

export const status = z.object({
  at,
  applications: z.array(applicationSummary),
  nodes: z.array(node),
  images: z.array(image),
  weights: z.array(weights),
  peers: z.array(peer),
});
export type Status = z.infer<typeof status>;

export const decision = z.object({
  decisionId: z.string(),
  application: z.string(),
  deployment: z.string(),
  version: z.number().int(),
  at,
  replicasBefore: z.number().int(),
  replicasWanted: z.number().int(),
  reason: z.string(),
  input: z.unknown().describe("`[now, observation, state, config]`."),
  output: z.unknown().describe("`{state, actions, wakeAt, reason, explain}`."),
});
export type DecisionView = z.infer<typeof decision>;

export const replay = z.object({
  decision,
  identical: z.boolean(),
  replayedOutput: z.unknown(),
});
export type Replay = z.infer<typeof replay>;

export const change = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("deploymentAdded"), deployment: z.string() }),
  z.object({ kind: z.literal("deploymentRemoved"), deployment: z.string() }),
  z.object({
    kind: z.literal("changed"),
    deployment: z.string(),
    path: z.string(),
    before: z.string().nullable(),
    after: z.string().nullable(),
    needsNewReplicas: z.boolean(),
  }),
]);
export type ChangeView = z.infer<typeof change>;

export const deployResult = z.object({
  application: z.string(),
  outcome: z.enum(["created", "unchanged"]),
  version: z.number().int(),
  /** The version that it replaces; null on the first deployment. */
  replaces: z.number().int().nullable(),
  digest: z.string(),
  changes: z.array(change),
  dryRun: z.boolean(),
});
export type DeployResult = z.infer<typeof deployResult>;

export const activation = z.object({
  application: z.string(),
  version: z.number().int(),
  replaces: z.number().int().nullable(),
});
export type Activation = z.infer<typeof activation>;

export const deleted = z.object({ application: z.string() });

export const logLine = z.object({
  at,
  level: z.enum(["debug", "info", "warn", "error", "unknown"]),
  service: z.string(),
  component: z.string(),
  application: z.string(),
  version: z.number().int(),
  deployment: z.string(),
  replicaId: z.string(),
  requestId: z.string(),
  traceId: z.string(),
  message: z.string(),
  fields: z.record(z.string(), z.unknown()),
});
export type LogLineView = z.infer<typeof logLine>;

export const tailedEvent = z.object({
  subject: z.string(),
  type: z.string().nullable().describe("Name in the catalogue; null for a subject that is not in it."),
  id: z.string(),
  source: z.string(),
  at: z.string(),
  data: z.unknown().describe("The message in protobuf's JSON form."),
});
export type TailedEvent = z.infer<typeof tailedEvent>;

/** One thing that is wrong with an application file. */
export const problem = z.object({
  line: z.number().int(),
  column: z.number().int(),
  path: z.string(),
  message: z.string(),
  remedy: z.string(),
});
export type ProblemView = z.infer<typeof problem>;

/** The body of every answer that is not 2xx. */
export const errorBody = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    field: z.string().optional(),
    remedy: z.string().optional(),
    retryAfterMs: z.number().optional(),
    problems: z.array(problem).optional().describe("Everything that is wrong with an application file."),
  }),
});
