// How many requests replicas must be there for. Requests in flight count as they are. Requests in the queue count too,
// unless the queue is only the trace of a slow start: then ordering a replica for each of them would bring capacity
// for a queue that is gone when it arrives (the overshoot of Ray Serve, KPA and HPA, docs/decisions on autoscaling).
//
// With measured rates a queue says two things: what one replica can do (a saturated fleet's completions, mu per ready
// replica) and what arrives (lambda). The lasting need is lambda / mu replicas (Little's law for a saturated fleet).
// On top comes what is left of the queue one cold start from now, to be worked off within one more cold start:
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

/** The demand on one version; null when nothing is known of its load. */
export function demandOf(
  now: Instant,
  version: VersionObservation,
  coldStartMs: number,
  config: AutoscalingConfig,
): Demand | null {
  const load = version.load;
  if (load === null) return null;
  const plain = load.inFlight + load.queued;
  const modelled = saturatedDemand(now, version, coldStartMs, config);
  const requests = modelled === null ? plain : Math.min(plain, Math.max(load.inFlight, modelled));
  return { requests, ignored: plain - requests, complete: load.complete };
}

/** The demand by rates; null when there is no queue or a rate is not known. */
function saturatedDemand(
  now: Instant,
  version: VersionObservation,
  coldStartMs: number,
  config: AutoscalingConfig,
): number | null {
  const load = version.load;
  if (load === null || load.queued === 0 || !load.complete) return null;
  const ready = version.replicas.filter((replica) => replica.phase === "ready").length;
  if (ready === 0 || load.arrivedPerS === null || load.completedPerS === null || load.completedPerS === 0) {
    return null;
  }
  const perReplicaPerS = load.completedPerS / ready;
  const horizonS = Math.max(CLEAR_MS_MIN, coldStartMs) / 1000;
  const helpS = version.replicas
    .filter((replica) => replica.phase === "starting")
    .reduce(
      (sum, { since }) => sum + Math.max(0, horizonS - Math.max(0, since + coldStartMs - now) / 1000),
      0,
    );
  const left = load.queued + load.arrivedPerS * horizonS - perReplicaPerS * (ready * horizonS + helpS);
  const replicas = load.arrivedPerS / perReplicaPerS + Math.max(0, left) / (perReplicaPerS * horizonS);
  return replicas * config.targetInFlight;
}

/** The median of the measured cold starts, or the assumed one before any was measured, in ms. */
export function estimateColdStartMs(coldStartsMs: readonly number[], assumedMs: number): number {
  const sorted = coldStartsMs.slice(-15).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? assumedMs;
}
