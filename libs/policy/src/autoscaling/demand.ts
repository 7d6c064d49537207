// How many requests replicas must be there for. Requests in flight count as they are. Requests in the queue count too,
// unless the queue is only the trace of a slow start: ordering replicas for each of them would bring capacity for a queue
// that is gone when it arrives, which is how Ray Serve, KPA and HPA overshoot after a cold start.
//
// What one replica can do is measured while there is a queue: the completions per ready replica, mu. With the arrivals,
// lambda, the lasting need is lambda / mu replicas (Little's law for a saturated fleet). On top comes what is left of
// the queue one cold start from now, to be worked off within one more cold start c:
//
//   left   = queued + lambda * c - mu * (ready * c + what the starting replicas do until then)
//   needed = lambda / mu + max(0, left) / (mu * c)
//
// The demand is the smaller of this and the plain count: the model only ever leaves out, so a wrong rate cannot order
// more than the requests that are really there.
import type { Instant } from "../time.ts";
import type { AutoscalingConfig, VersionObservation } from "./types.ts";

export type Demand = {
  /** Requests that replicas must be there for. */
  requests: number;
  /** Requests in flight or queued that are left out. */
  ignored: number;
  /** False: a lower bound, good enough to add replicas, never to take some away. */
  complete: boolean;
};

/** A queue is never planned to be worked off faster than this: rates over shorter times are noise. */
const CLEAR_MS_MIN = 5_000;
/** A replica that became ready later than this has not shown yet what it can do. */
const SETTLE_MS = 2_000;

/**
 * The demand on one version; null when nothing is known of its load. `perReplicaPerS`: what a replica was last seen to
 * complete per second, null before that was ever seen.
 */
export function demandOf(
  now: Instant,
  version: VersionObservation,
  coldStartMs: number,
  perReplicaPerS: number | null,
  config: AutoscalingConfig,
): Demand | null {
  const load = version.load;
  if (load === null) return null;
  const plain = load.inFlight + load.queued;
  const modelled = modelledDemand(now, version, coldStartMs, perReplicaPerS, config);
  const requests = modelled === null ? plain : Math.min(plain, Math.max(load.inFlight, modelled));
  return { requests, ignored: plain - requests, complete: load.complete };
}

/** The demand by rates, in requests; null when there is no queue or a rate is not known. */
function modelledDemand(
  now: Instant,
  { load, replicas }: VersionObservation,
  coldStartMs: number,
  perReplicaPerS: number | null,
  config: AutoscalingConfig,
): number | null {
  if (load === null || load.queued === 0 || !load.complete || load.arrivedPerS === null) return null;
  if (perReplicaPerS === null) {
    // Nothing was ever completed, so a queue says nothing about what is needed: enough to learn it quickly.
    return config.targetInFlight * 2 * Math.max(1, readyCount(replicas));
  }
  const horizonS = Math.max(CLEAR_MS_MIN, coldStartMs) / 1000;
  const helpS = replicas
    .filter(({ phase }) => phase === "starting")
    .reduce(
      (sum, { since }) => sum + Math.max(0, horizonS - Math.max(0, since + coldStartMs - now) / 1000),
      0,
    );
  const capacity = perReplicaPerS * (readyCount(replicas) * horizonS + helpS);
  const left = Math.max(0, load.queued + load.arrivedPerS * horizonS - capacity);
  return (load.arrivedPerS / perReplicaPerS + left / (perReplicaPerS * horizonS)) * config.targetInFlight;
}

/** What one ready replica completes per second at its limit; null unless this observation shows it. */
export function measureThroughput(now: Instant, { load, replicas }: VersionObservation): number | null {
  if (load === null || !load.complete || load.queued === 0 || !load.completedPerS) return null;
  const ready = replicas.filter(({ phase }) => phase === "ready");
  if (ready.length === 0 || ready.some(({ since }) => now - since < SETTLE_MS)) return null;
  return load.completedPerS / ready.length;
}

/** The median of the measured cold starts, or the assumed one before any was measured, in ms. */
export function estimateColdStartMs(coldStartsMs: readonly number[], assumedMs: number): number {
  const sorted = coldStartsMs.slice(-15).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? assumedMs;
}

const readyCount = (replicas: VersionObservation["replicas"]) =>
  replicas.filter(({ phase }) => phase === "ready").length;
