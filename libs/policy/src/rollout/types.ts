// The plain data of a rollout: what it is told, what it sees, what it remembers and what it orders.
import type { GateConfig, GateState, VersionCounters } from "../gates/index.ts";
import type { Instant } from "../time.ts";

/** One deployment in both versions; `from` or `to` is null when only one version has it. */
export type RolloutDeployment = {
  name: string;
  /** Accelerators of one replica; 0 counts as one unit per replica. */
  from: { accelerators: number } | null;
  to: { accelerators: number } | null;
  /** Replicas above the needed number that may exist meanwhile; at least 1. */
  surge: number;
};

export type RolloutPlan = {
  /** The version that serves now; null on the first deployment. */
  from: string | null;
  to: string;
  deployments: readonly RolloutDeployment[];
  /** The least time between two steps of traffic. */
  stepIntervalMs: number;
  /** Failed replicas of the new version that are tolerated. */
  crashesMax: number;
  heartbeatTimeoutMs: number;
  /** From ordered to ready. */
  startTimeoutMs: number;
  /** From told to drain to gone. */
  drainTimeoutMs: number;
  /** null: no gates, e.g. when a person asked for the way back. */
  gates: (GateConfig & { unknownPassesAfterMs: number | null; timeoutMs: number }) | null;
};

/** Replicas of one deployment in one version. Failed ones hold nothing any more and are not counted. */
export type ReplicaCounts = { starting: number; ready: number; draining: number };

export type RolloutObservation = {
  deployments: readonly {
    name: string;
    /** The autoscaler's target over both versions; null: unknown, the last known number holds. */
    wanted: number | null;
    from: ReplicaCounts;
    to: ReplicaCounts;
    /**
     * Replicas that hold a place (starting, ready or draining) by the autoscaler's own rows, as it says once it acts on
     * the bounds that were ordered last; null until it has said so. Left out where nothing is reported: then orders are
     * taken as obeyed at once, and I4 holds only as far as they are.
     */
    held?: { from: number; to: number } | null;
  }[];
  /** Totals since some start, per version; null when unknown. */
  counters: { from: VersionCounters | null; to: VersionCounters | null };
  /** When anything was heard of a replica of the version last; null: never. */
  heardAt: { from: Instant | null; to: Instant | null };
  /** Replicas of the new version that failed since the rollout began, and why the last one did. */
  crashes: number;
  crashWhy: string | null;
  /** A person wants it undone, or a newer version is waiting. */
  stop: "aborted" | "superseded" | null;
};

export type RollbackCause =
  | "aborted"
  | "superseded"
  | "crashLoop"
  | "startTimeout"
  | "heartbeatLost"
  | "gateFailed"
  | "gateTimeout"
  | "noProgress";

/** `kind` for machines, `why` for people. */
export type RollbackReason = { kind: RollbackCause; why: string };

/** What was ordered last: the rollout orders only changes. */
export type Ordered = {
  /** The new version's share of traffic; null before any was set. */
  weightTo: number | null;
  bounds: { deployment: string; from: number | null; to: number | null }[];
};

/** What every phase that is not over carries. */
export type Ongoing = {
  /** When the phase began. */
  since: Instant;
  /** The last decision, and the first one after the controller was away: what nobody watched is nobody's fault. */
  decidedAt: Instant;
  resumedAt: Instant;
  ordered: Ordered;
  /** Last known target per deployment, in the plan's order; null until one was known. */
  wanted: (number | null)[];
  gate: GateState | null;
  /** When replicas last changed in the right direction, and the measure of it: the deadline for no progress. */
  progress: { at: Instant; score: number };
};

export type RolloutState =
  /** Replicas of the new version, one of each deployment, come up; they get no traffic. */
  | (Ongoing & { kind: "starting" })
  /** They get a small share, and the gates compare. */
  | (Ongoing & { kind: "gating" })
  /** Traffic and replicas are exchanged step by step. */
  | (Ongoing & { kind: "stepping"; step: number; steppedAt: Instant })
  /** All traffic is on the new version; the old one's last replicas drain. */
  | (Ongoing & { kind: "finishing" })
  | (Ongoing & { kind: "rollingBack"; reason: RollbackReason })
  | { kind: "done"; at: Instant }
  | { kind: "rolledBack"; at: Instant; reason: RollbackReason }
  /** It could neither be finished nor undone: a person has to look. What serves goes on serving. */
  | { kind: "failed"; at: Instant; reason: RollbackReason };

export type RolloutAction =
  | { kind: "setTraffic"; weights: { version: string; weight: number }[] }
  | { kind: "setBounds"; version: string; deployment: string; replicasMin: number; replicasMax: number }
  /** The version follows the load from now on, within the application's own limits. */
  | { kind: "clearBounds"; version: string; deployment: string }
  /** No replica of it is needed any more; it stays known as a target for a way back. */
  | { kind: "retireVersion"; version: string }
  | { kind: "complete"; outcome: "done" | "rolledBack" | "failed"; why: string };

export type RolloutDecision = { state: RolloutState; actions: RolloutAction[]; wakeAt: Instant | null };
