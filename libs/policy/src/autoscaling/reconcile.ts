// From "so many replicas of this version" to orders: which replicas start, which drain, which are cleared away.
import type { Instant } from "../time.ts";
import type {
  AutoscalingAction,
  AutoscalingConfig,
  AutoscalingState,
  ReplicaObservation,
  VersionObservation,
} from "./types.ts";

export type Reconciled = { state: AutoscalingState; actions: AutoscalingAction[]; wakeAt: Instant | null };

/** Orders for one version. Failed replicas are cleared and, unless they fail in a row, replaced at once. */
export function reconcile(
  now: Instant,
  version: VersionObservation,
  replicas: number,
  state: AutoscalingState,
  config: AutoscalingConfig,
): Reconciled {
  const failed = version.replicas.filter((replica) => replica.phase === "failed");
  const alive = version.replicas.filter(isAlive);
  const next = noteFailures(now, version, failed.length > 0, state, config);
  const actions: AutoscalingAction[] = failed.map(({ replicaId }) => {
    return { kind: "removeReplica", version: version.version, replicaId };
  });
  if (alive.length > replicas) {
    for (const { replicaId } of alive.toSorted(byExpendability).slice(0, alive.length - replicas)) {
      actions.push({ kind: "drainReplica", version: version.version, replicaId });
    }
  }
  if (alive.length >= replicas) return { state: next, actions, wakeAt: null };
  const startAt = mayStartAt(version.version, next, config);
  if (now < startAt) return { state: next, actions, wakeAt: startAt };
  const missing = Math.min(replicas - alive.length, roomFor(version));
  for (let i = 0; i < missing; i++) {
    actions.push({ kind: "startReplica", version: version.version, ordinal: next.nextOrdinal + i });
  }
  return { state: { ...next, nextOrdinal: next.nextOrdinal + missing }, actions, wakeAt: null };
}

const isAlive = ({ phase }: ReplicaObservation) => phase === "starting" || phase === "ready";

/**
 * Replicas that may be started now. During a rollout a place is free only when the replica that drains on it is gone: the
 * rollout counts on a bounded version never holding more places than its bound (I4).
 */
function roomFor({ bounds, replicas }: VersionObservation): number {
  if (bounds === null) return Number.POSITIVE_INFINITY;
  const holding = replicas.filter(({ phase }) => phase !== "failed").length;
  return Math.max(0, bounds.replicasMax - holding);
}

/** Who goes first: what has not started yet, newest first; then the least busy, unknown counting as busy. */
function byExpendability(a: ReplicaObservation, b: ReplicaObservation): number {
  if (a.phase !== b.phase) return a.phase === "starting" ? -1 : 1;
  const busy = (replica: ReplicaObservation) =>
    replica.phase === "starting" ? 0 : (replica.inFlight ?? Number.MAX_SAFE_INTEGER);
  return busy(a) - busy(b) || b.since - a.since || (a.replicaId < b.replicaId ? -1 : 1);
}

/** Failures seen together count once; a replica that stays ready for the longest back-off ends the row. */
function noteFailures(
  now: Instant,
  version: VersionObservation,
  failedNow: boolean,
  state: AutoscalingState,
  config: AutoscalingConfig,
): AutoscalingState {
  const known = state.failures.find((row) => row.version === version.version);
  const others = state.failures.filter((row) => row !== known);
  if (failedNow) {
    const row = { version: version.version, count: (known?.count ?? 0) + 1, lastAt: now };
    return { ...state, failures: [...others, row] };
  }
  if (known === undefined) return state;
  const recovered = version.replicas.some(
    ({ phase, since }) =>
      phase === "ready" && since >= known.lastAt && now - since >= config.startBackoffMsMax,
  );
  return recovered ? { ...state, failures: others } : state;
}

function mayStartAt(version: string, state: AutoscalingState, config: AutoscalingConfig): Instant {
  const row = state.failures.find((one) => one.version === version);
  if (row === undefined || row.count < 2) return Number.NEGATIVE_INFINITY;
  const waitMs = Math.min(config.startBackoffMsMax, config.startBackoffMs * 2 ** Math.min(30, row.count - 2));
  return row.lastAt + waitMs;
}
