// The names that people read for the numbers on the wire. The only file of control that knows both.
import { CompileCacheOutcome, GoneReason, LogLevel, ReplicaPhase, RolloutPhase } from "@pilotlight/contracts";
import type {
  CompileCacheView,
  LogLineView,
  ReplicaPhaseName,
  ReplicaView,
  RolloutPhaseName,
} from "@pilotlight/control-api";

const REPLICA_PHASE: Record<ReplicaPhase, ReplicaPhaseName> = {
  [ReplicaPhase.UNSPECIFIED]: "decided",
  [ReplicaPhase.DECIDED]: "decided",
  [ReplicaPhase.PLACED]: "placed",
  [ReplicaPhase.IMAGE_USABLE]: "imageUsable",
  [ReplicaPhase.PROCESS_UP]: "processUp",
  [ReplicaPhase.FIRST_BYTE]: "firstByte",
  [ReplicaPhase.LAST_BYTE]: "lastByte",
  [ReplicaPhase.ENGINE_READY]: "engineReady",
  [ReplicaPhase.READY]: "ready",
  [ReplicaPhase.DRAINING]: "draining",
  [ReplicaPhase.GONE]: "gone",
};

const GONE_REASON: Record<GoneReason, ReplicaView["goneReason"]> = {
  [GoneReason.UNSPECIFIED]: null,
  [GoneReason.DRAINED]: "drained",
  [GoneReason.CRASHED]: "crashed",
  [GoneReason.START_FAILED]: "startFailed",
  [GoneReason.NODE_LOST]: "nodeLost",
};

const CACHE_OUTCOME: Record<CompileCacheOutcome, CompileCacheView["outcome"] | null> = {
  [CompileCacheOutcome.UNSPECIFIED]: null,
  [CompileCacheOutcome.HIT]: "hit",
  [CompileCacheOutcome.HELD]: "held",
  [CompileCacheOutcome.MISS]: "miss",
  [CompileCacheOutcome.BROKEN]: "broken",
};

const ROLLOUT_PHASE: Record<RolloutPhase, RolloutPhaseName> = {
  [RolloutPhase.UNSPECIFIED]: "starting",
  [RolloutPhase.STARTING]: "starting",
  [RolloutPhase.GATING]: "gating",
  [RolloutPhase.STEPPING]: "stepping",
  [RolloutPhase.DONE]: "done",
  [RolloutPhase.ROLLING_BACK]: "rollingBack",
  [RolloutPhase.ROLLED_BACK]: "rolledBack",
  [RolloutPhase.FAILED]: "failed",
};

const LOG_LEVEL: Record<LogLevel, LogLineView["level"]> = {
  [LogLevel.UNSPECIFIED]: "unknown",
  [LogLevel.DEBUG]: "debug",
  [LogLevel.INFO]: "info",
  [LogLevel.WARN]: "warn",
  [LogLevel.ERROR]: "error",
};

// A number that a newer service sent shows as the nearest thing that is known here.
export const replicaPhaseName = (phase: ReplicaPhase): ReplicaPhaseName => REPLICA_PHASE[phase] ?? "decided";
export const goneReasonName = (reason: GoneReason): ReplicaView["goneReason"] => GONE_REASON[reason] ?? null;
export const compileCacheOutcomeName = (
  outcome: CompileCacheOutcome = CompileCacheOutcome.UNSPECIFIED,
): CompileCacheView["outcome"] | null => CACHE_OUTCOME[outcome] ?? null;
export const rolloutPhaseName = (phase: RolloutPhase): RolloutPhaseName => ROLLOUT_PHASE[phase] ?? "stepping";
export const logLevelName = (level: LogLevel): LogLineView["level"] => LOG_LEVEL[level] ?? "unknown";

/** The level on the wire for a name; unspecified for none. */
export const logLevelOf = (name: "debug" | "info" | "warn" | "error" | undefined): LogLevel => {
  const found = Object.entries(LOG_LEVEL).find(([, known]) => known === name);
  return found === undefined ? LogLevel.UNSPECIFIED : (Number(found[0]) as LogLevel);
};
