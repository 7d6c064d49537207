// The number of replicas of a deployment over all its versions: from demand, through hysteresis and delays, to a target.
//
//   T1. Unknown never scales down: an incomplete demand counts as "at least what there is now".
//   T2. Up is followed as fast as `scaleUpDelayMs` allows, by the least that was wanted all that time.
//   T3. Down goes to the highest need of the last `scaleDownDelayMs`, so one quiet sample means nothing.
//   T4. An edge between two numbers of replicas counts only when the load is `toleranceReplicas` beyond it, so constant
//       load near an edge never flaps. The tolerance is absolute: a share of the fleet would be whole replicas in a large
//       one (kubernetes/kubernetes#116984).
//   T5. Without history (a first decision, a restart) the present size is the need, for one whole window.
import type { Instant } from "../time.ts";
import type { Demand } from "./demand.ts";
import type { AutoscalingConfig, AutoscalingReason, AutoscalingState } from "./types.ts";

export type TargetDecision = {
  state: AutoscalingState;
  target: number;
  /** Replicas for the demand, before delays and limits. */
  needed: number;
  reason: AutoscalingReason;
  wakeAt: Instant | null;
};

const BUCKETS = 30;

/** Decides the target. `alive`: replicas that start or are ready now. `demand` null: nothing is known. */
export function decideTarget(
  now: Instant,
  demand: Demand | null,
  alive: number,
  state: AutoscalingState,
  config: AutoscalingConfig,
): TargetDecision {
  const limit = (count: number) => Math.min(config.replicasMax, Math.max(config.replicasMin, count));
  const before = state.target ?? alive;
  const needed = wantedReplicas(demand, before, config);
  const wanted = limit(needed);
  const isFirst = state.target === null || state.window.length === 0;
  const need = demand === null || !demand.complete || isFirst ? Math.max(wanted, before) : wanted;

  const window = remember(now, state.window, need, config.scaleDownDelayMs);
  const idleSince = need === 0 ? (state.idleSince ?? now) : null;
  const more = wanted > before ? follow(now, state, wanted) : null;
  const settle = (target: number, reason: AutoscalingReason, wakeAt: Instant | null): TargetDecision => {
    const limited = limit(target);
    const kept = limited > before ? null : more;
    return {
      state: { ...state, target: limited, more: kept, window, idleSince },
      target: limited,
      needed,
      reason: limited === target ? reason : "limits",
      wakeAt,
    };
  };

  if (more !== null) {
    if (before === 0) return settle(wanted, "fromZero", null);
    const dueAt = more.since + config.scaleUpDelayMs;
    return now >= dueAt
      ? settle(more.lowest, "moreLoad", null)
      : settle(before, "moreLoadForTooShort", dueAt);
  }
  if (state.target === null) return settle(before, "adopted", null);
  if (demand === null || !demand.complete) return settle(before, "unknownLoad", null);
  return lower(now, before, wanted, window, idleSince, config, settle);
}

/** The part that goes down: to the highest need of the window, and to zero only after the longer delay. */
function lower(
  now: Instant,
  before: number,
  wanted: number,
  window: AutoscalingState["window"],
  idleSince: Instant | null,
  config: AutoscalingConfig,
  settle: (target: number, reason: AutoscalingReason, wakeAt: Instant | null) => TargetDecision,
): TargetDecision {
  if (wanted >= before) return settle(before, "steady", null);
  const highest = Math.max(...window.map((bucket) => bucket.highest));
  const nextChangeAt = (window[0]?.at ?? now) + bucketMs(config.scaleDownDelayMs) + config.scaleDownDelayMs;
  if (highest >= before) return settle(before, "lessLoadForTooShort", nextChangeAt);
  if (highest > 0) return settle(highest, "lessLoad", highest > wanted ? nextChangeAt : null);
  const zeroAt = (idleSince ?? now) + config.scaleToZeroDelayMs;
  if (now >= zeroAt) return settle(0, "lessLoad", null);
  return settle(Math.min(before, 1), before > 1 ? "lessLoad" : "lessLoadForTooShort", zeroAt);
}

/** Replicas for a demand, seen from `before`: only an edge that is clearly passed counts (T4). */
function wantedReplicas(demand: Demand | null, before: number, config: AutoscalingConfig): number {
  if (demand === null) return before;
  if (demand.requests <= 0) return 0;
  const exact = demand.requests / config.targetInFlight;
  const up = Math.max(1, Math.ceil(exact - config.toleranceReplicas));
  const down = Math.max(1, Math.ceil(exact + config.toleranceReplicas));
  if (up > before) return up;
  return Math.min(down, before);
}

function follow(
  now: Instant,
  state: AutoscalingState,
  wanted: number,
): NonNullable<AutoscalingState["more"]> {
  if (state.more === null) return { since: now, lowest: wanted };
  return { since: state.more.since, lowest: Math.min(state.more.lowest, wanted) };
}

const bucketMs = (delayMs: number) => Math.max(1, Math.ceil(delayMs / BUCKETS));

/** Adds a need to the window of maxima and drops buckets that ended before the delay. */
function remember(
  now: Instant,
  window: AutoscalingState["window"],
  need: number,
  delayMs: number,
): AutoscalingState["window"] {
  const width = bucketMs(delayMs);
  const at = Math.floor(now / width) * width;
  const kept = window.filter((bucket) => bucket.at + width > now - delayMs && bucket.at < at);
  const same = window.find((bucket) => bucket.at === at);
  return [...kept, { at, highest: Math.max(need, same?.highest ?? 0) }];
}
