// From messages to what is shown.
import {
  type ImageFailed,
  type ImageReady,
  type MessageShape,
  type ReplicaStatusSchema,
  timestampMs,
  type WeightsFailed,
  type WeightsLoaded,
} from "@pilotlight/contracts";
import type { FailureView, ImageView, ReplicaView, Waterfall, WeightsView } from "@pilotlight/control-api";
import { compileCacheOutcomeName, goneReasonName, replicaPhaseName } from "./wire-names.ts";

type ReplicaStatus = MessageShape<typeof ReplicaStatusSchema>;

/** A replica as its node agent reports it. `now` stands in where a mark has no time. */
export function replicaView(status: ReplicaStatus, now: number): ReplicaView {
  const marks = status.marks.map((mark) => ({
    phase: replicaPhaseName(mark.phase),
    at: mark.at === undefined ? now : timestampMs(mark.at),
  }));
  return {
    replicaId: status.replicaId,
    application: status.application,
    version: status.version,
    deployment: status.deployment,
    nodeId: status.nodeId,
    phase: replicaPhaseName(status.phase),
    marks,
    endpoint: status.endpoint === "" ? null : status.endpoint,
    goneReason: goneReasonName(status.goneReason),
    failure: failureView(status.failure),
    accelerators: status.resources?.accelerators ?? 0,
    memoryMib: status.resources?.memoryMib ?? 0,
    compileCache: compileCacheView(status.compileCache),
    updatedAt: marks.at(-1)?.at ?? now,
  };
}

function compileCacheView(status: ReplicaStatus["compileCache"]): ReplicaView["compileCache"] {
  const outcome = compileCacheOutcomeName(status?.outcome);
  if (status === undefined || outcome === null) return null;
  const { bytes, durationMs, savedBytes } = status;
  return { outcome, bytes: Number(bytes), durationMs, savedBytes: Number(savedBytes) };
}

/** The cold start of a replica: its marks with the time between them. Draining and going are no part of it. */
export function waterfallOf(replica: ReplicaView): Waterfall {
  const marks = replica.marks.filter(({ phase }) => phase !== "draining" && phase !== "gone");
  const startAt = marks[0]?.at ?? replica.updatedAt;
  const readyAt = marks.find(({ phase }) => phase === "ready")?.at;
  return {
    replicaId: replica.replicaId,
    application: replica.application,
    version: replica.version,
    deployment: replica.deployment,
    nodeId: replica.nodeId,
    phase: replica.phase,
    failure: replica.failure,
    compileCache: replica.compileCache,
    rows: marks.map(({ phase, at }, index) => ({
      phase,
      at,
      sinceStartMs: at - startAt,
      durationMs: at - (marks[index - 1]?.at ?? at),
    })),
    totalMs: readyAt === undefined ? null : readyAt - startAt,
  };
}

const NOTHING_YET = {
  manifestDigest: null,
  imageId: null,
  unpackedBytes: 0,
  storedBytes: 0,
  uploadedBytes: 0,
  durationMs: 0,
  failure: null,
  progress: null,
};

export const imageWantedView = (image: string, platform: string, now: number): ImageView => ({
  ...NOTHING_YET,
  image,
  platform,
  state: "wanted",
  updatedAt: now,
});

export const imageReadyView = (message: ImageReady, now: number): ImageView => ({
  image: message.image,
  platform: message.platform,
  state: "ready",
  manifestDigest: message.manifestDigest,
  imageId: message.imageId,
  unpackedBytes: Number(message.unpackedBytes),
  storedBytes: Number(message.storedBytes),
  uploadedBytes: Number(message.uploadedBytes),
  durationMs: message.durationMs,
  failure: null,
  progress: null,
  updatedAt: now,
});

export const imageFailedView = (message: ImageFailed, now: number): ImageView => ({
  ...NOTHING_YET,
  image: message.image,
  platform: message.platform,
  state: "failed",
  failure: failureView(message.failure),
  updatedAt: now,
});

export const weightsLoadedView = (message: WeightsLoaded, now: number): WeightsView => ({
  nodeId: message.nodeId,
  source: message.source,
  state: "loaded",
  bytes: Number(message.bytes),
  bytesFetched: Number(message.bytesFetched),
  durationMs: message.durationMs,
  failure: null,
  progress: null,
  updatedAt: now,
});

export const weightsFailedView = (message: WeightsFailed, now: number): WeightsView => ({
  nodeId: message.nodeId,
  source: message.source,
  state: "failed",
  bytes: 0,
  bytesFetched: 0,
  durationMs: 0,
  failure: failureView(message.failure),
  progress: null,
  updatedAt: now,
});

const failureView = (
  failure: { code: string; message: string; remedy: string } | undefined,
): FailureView | null =>
  failure === undefined ? null : { code: failure.code, message: failure.message, remedy: failure.remedy };
