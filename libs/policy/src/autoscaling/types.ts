// What the autoscaler sees, remembers, is told and does. Everything here is plain data that survives JSON, because each
// decision is recorded with its input and can be replayed from the record (I9). Absent is null, never undefined.
import type { Instant } from "../time.ts";

/** One gateway's view of one deployment version, as it publishes it every 250 ms. Lossy: any of them may be missing. */
export type LoadSample = {
  gatewayId: string;
  sampledAt: Instant;
  /** Requests sent to replicas and not yet finished. */
  inFlight: number;
  /** Requests that wait in the gateway for a replica. */
  queued: number;
  /** Requests that came and that finished since the gateway started; null when it does not count them. */
  arrivedTotal: number | null;
  completedTotal: number | null;
};

/** What is known of the load of one deployment version, over all gateways. */
export type LoadObservation = {
  inFlight: number;
  queued: number;
  /** Requests per second over the last window; null when unknown. */
  arrivedPerS: number | null;
  completedPerS: number | null;
  /** False when a gateway's sample is missing or too old: then the numbers are only a lower bound. */
  complete: boolean;
};

export type ReplicaPhase = "starting" | "ready" | "draining" | "failed";

/**
 * One replica. The caller applies a decision's actions to its own rows before it decides again: a replica that was
 * ordered is `starting` from then on, one that was told to drain is `draining`, one that was removed is gone.
 */
export type ReplicaObservation = {
  replicaId: string;
  phase: ReplicaPhase;
  /** When it entered the phase. */
  since: Instant;
  /** Requests in flight on it; null when unknown. */
  inFlight: number | null;
};

/** Limits that the rollout sets for one version (and the application file, when no rollout runs). */
export type ReplicaBounds = { replicasMin: number; replicasMax: number };

export type VersionObservation = {
  version: string;
  /** null: no sample at all. Unknown never scales down. */
  load: LoadObservation | null;
  /** Every replica that exists or was ordered and is not gone. */
  replicas: readonly ReplicaObservation[];
  /**
   * null: this version follows the load within the configured limits. Only a rollout may say so (`clearBounds`): a
   * version that no rollout has spoken of yet has bounds of 0 to 0, or it would grow beside the one that serves.
   */
  bounds: ReplicaBounds | null;
};

/** One deployment of an application, with all its versions that are alive, oldest first. */
export type AutoscalingObservation = {
  versions: readonly VersionObservation[];
  /** Durations of the latest starts of this deployment, from ordered to ready, newest last, in ms. */
  coldStartsMs: readonly number[];
};

export type AutoscalingConfig = {
  replicasMin: number;
  replicasMax: number;
  /** Requests in flight and queued that one replica should have. */
  targetInFlight: number;
  /** More load must last this long before replicas are added. */
  scaleUpDelayMs: number;
  /** The highest need of this window decides before replicas are taken away. */
  scaleDownDelayMs: number;
  /** The same window for the last replica. */
  scaleToZeroDelayMs: number;
  /** Part of one replica that the load must be beyond a rounding edge before the edge counts, against flapping. */
  toleranceReplicas: number;
  /** The cold start assumed until one was measured. */
  coldStartMsAssumed: number;
  /** The first failure is replaced at once, the second in a row after this long; doubles up to the maximum. */
  startBackoffMs: number;
  startBackoffMsMax: number;
};

/** What is remembered between two decisions. Bounded: the window holds a fixed number of buckets. */
export type AutoscalingState = {
  /** The number of replicas decided last, over all versions. Null before the first decision. */
  target: number | null;
  /** Since when every decision wanted more than `target`, and the least that was wanted since; null when not. */
  more: { since: Instant; lowest: number } | null;
  /** The highest need per stretch of time, oldest first, over the scale-down delay. */
  window: { at: Instant; highest: number }[];
  /** Since when nothing at all was needed; null when something was. */
  idleSince: Instant | null;
  /** What a ready replica was last seen to complete per second while requests waited; null before that was seen. */
  perReplicaPerS: number | null;
  /** Number of the next replica; makes replica names unique without randomness. */
  nextOrdinal: number;
  /** Per version: failures in a row and when the last one was seen. */
  failures: { version: string; count: number; lastAt: Instant }[];
};

export type AutoscalingAction =
  | { kind: "startReplica"; version: string; ordinal: number }
  /** Finish what runs, take nothing new, then stop. */
  | { kind: "drainReplica"; version: string; replicaId: string }
  /** It failed: give back what it held. */
  | { kind: "removeReplica"; version: string; replicaId: string };

export type AutoscalingReason =
  | "adopted"
  | "steady"
  | "fromZero"
  | "moreLoad"
  | "moreLoadForTooShort"
  | "lessLoad"
  | "lessLoadForTooShort"
  | "unknownLoad"
  | "limits";

export type AutoscalingDecision = {
  state: AutoscalingState;
  actions: AutoscalingAction[];
  /** Decide again at this time if nothing happens before; null: only when something happens. */
  wakeAt: Instant | null;
  reason: AutoscalingReason;
  /** How it came about, for people and for the decision log. */
  explain: {
    /** Requests that replicas must be there for; null when unknown. */
    demand: number | null;
    /** Requests that are left out of it because they will be gone by the time a new replica could help. */
    backlogIgnored: number;
    /** Replicas for that demand, before delays and limits. */
    wanted: number;
    target: number;
    coldStartMs: number;
    /** Replicas per version that this decision aims at. */
    allocations: { version: string; replicas: number }[];
  };
};
