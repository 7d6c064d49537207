// The autoscaler's step: observation and state in, state and orders out. No clock, no I/O, no chance, so any decision
// can be repeated from its record (I9), and the simulator runs the very same function.
import { earlier, type Instant } from "../time.ts";
import { allocate } from "./allocate.ts";
import { type Demand, demandOf, estimateColdStartMs, measureThroughput } from "./demand.ts";
import { reconcile } from "./reconcile.ts";
import { decideTarget } from "./target.ts";
import type {
  AutoscalingAction,
  AutoscalingConfig,
  AutoscalingDecision,
  AutoscalingObservation,
  AutoscalingState,
  VersionObservation,
} from "./types.ts";

/** The state before the first decision. `nextOrdinal` must be above every replica that ever existed. */
export function initialAutoscalingState(nextOrdinal = 1): AutoscalingState {
  return {
    target: null,
    more: null,
    window: [],
    idleSince: null,
    perReplicaPerS: null,
    nextOrdinal,
    failures: [],
  };
}

/** Decides about one deployment of one application, all its live versions together. */
export function decide(
  now: Instant,
  observation: AutoscalingObservation,
  state: AutoscalingState,
  config: AutoscalingConfig,
): AutoscalingDecision {
  const coldStartMs = estimateColdStartMs(observation.coldStartsMs, config.coldStartMsAssumed);
  const measured = observation.versions.map((version) => measureThroughput(now, version));
  const perReplicaPerS = measured.findLast((rate) => rate !== null) ?? state.perReplicaPerS;
  const demand = totalDemand(now, observation.versions, coldStartMs, perReplicaPerS, config);
  const alive = observation.versions
    .flatMap(({ replicas }) => replicas)
    .filter(({ phase }) => phase === "starting" || phase === "ready").length;
  const aim = decideTarget(now, demand, alive, state, config);
  const allocations = allocate(aim.target, observation.versions);

  const live = new Set(observation.versions.map(({ version }) => version));
  let next: AutoscalingState = {
    ...aim.state,
    perReplicaPerS,
    failures: aim.state.failures.filter(({ version }) => live.has(version)),
  };
  let wakeAt = aim.wakeAt;
  const actions: AutoscalingAction[] = [];
  observation.versions.forEach((version, index) => {
    const result = reconcile(now, version, allocations[index]?.replicas ?? 0, next, config);
    next = result.state;
    wakeAt = earlier(wakeAt, result.wakeAt);
    actions.push(...result.actions);
  });
  return {
    state: next,
    actions,
    wakeAt,
    reason: aim.reason,
    explain: {
      demand: demand?.requests ?? null,
      backlogIgnored: demand?.ignored ?? 0,
      wanted: aim.needed,
      target: aim.target,
      coldStartMs,
      allocations,
    },
  };
}

/** The sum over versions; null when nothing is known of any of them. */
function totalDemand(
  now: Instant,
  versions: readonly VersionObservation[],
  coldStartMs: number,
  perReplicaPerS: number | null,
  config: AutoscalingConfig,
): Demand | null {
  const total: Demand = { requests: 0, ignored: 0, complete: true };
  let known = false;
  for (const version of versions) {
    const demand = demandOf(now, version, coldStartMs, perReplicaPerS, config);
    if (demand === null) {
      // A version that is only starting beside another one carries nothing yet, so no gateway speaks of it.
      if (version.replicas.some(({ phase }) => phase === "ready")) total.complete = false;
      continue;
    }
    known = true;
    total.requests += demand.requests;
    total.ignored += demand.ignored;
    total.complete &&= demand.complete;
  }
  return known ? total : null;
}
