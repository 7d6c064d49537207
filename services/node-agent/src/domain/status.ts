// From the agent's view of a replica to the document that everyone reads.
import { create } from "@bufbuild/protobuf";
import {
  CompileCacheOutcome,
  GoneReason,
  type ReplicaStatus,
  ReplicaStatusSchema,
  timestampFromMs,
} from "@pilotlight/contracts";
import { type CompileCache, type Outcome, phaseOf, type Replica } from "./replica.ts";

const GONE_REASON = {
  drained: GoneReason.DRAINED,
  crashed: GoneReason.CRASHED,
  startFailed: GoneReason.START_FAILED,
} as const satisfies Record<Outcome["reason"], GoneReason>;

const CACHE_OUTCOME = {
  hit: CompileCacheOutcome.HIT,
  held: CompileCacheOutcome.HELD,
  miss: CompileCacheOutcome.MISS,
  broken: CompileCacheOutcome.BROKEN,
} as const satisfies Record<CompileCache["outcome"], CompileCacheOutcome>;

const cacheStatus = ({ outcome, bytes, durationMs, savedBytes }: CompileCache) => ({
  outcome: CACHE_OUTCOME[outcome],
  bytes: BigInt(bytes),
  durationMs,
  savedBytes: BigInt(savedBytes),
});

/** The replica's whole state for `replicaReported`. */
export function statusOf(replica: Replica): ReplicaStatus {
  const { assignment, state } = replica;
  const gone = state.kind === "gone" ? state.outcome : undefined;
  const failure = gone === undefined ? replica.trouble : gone.failure;
  return create(ReplicaStatusSchema, {
    replicaId: assignment.replicaId,
    application: assignment.application,
    version: assignment.version,
    deployment: assignment.deployment?.name ?? "",
    nodeId: assignment.nodeId,
    phase: phaseOf(replica),
    marks: replica.marks.map(({ phase, at }) => ({ phase, at: timestampFromMs(at) })),
    endpoint: replica.worker?.endpoint ?? "",
    inFlightMax: replica.worker?.inFlightMax ?? 0,
    ...(gone === undefined ? {} : { goneReason: GONE_REASON[gone.reason] }),
    ...(failure === undefined ? {} : { failure }),
    ...(replica.compileCache === undefined ? {} : { compileCache: cacheStatus(replica.compileCache) }),
    ...(assignment.deployment?.resources === undefined ? {} : { resources: assignment.deployment.resources }),
  });
}
