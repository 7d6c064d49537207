// The rollout's step: from one version to the next with n + 1 accelerators, and back the same way.
//
//   starting    one replica of each deployment of the new version comes up, without traffic
//   gating      it gets an even share of traffic, and the gates compare it with the old version
//   stepping    traffic moves to what the new side can carry, an old replica drains, its accelerator takes a new one
//   finishing   all traffic is on the new version, the last old replicas drain
//   rollingBack the same exchange in the other direction, without waiting for intervals or gates
//
// Every phase has a deadline, so every rollout ends. Traffic follows ready capacity in every decision, not only at steps:
// a crash moves it at once (I3). The number of replicas n is the autoscaler's and may change at any time.
//
// The caller persists the state before it acts; actions are differences from what was ordered, so a decision that is
// repeated orders nothing twice.
import { type GateState, judge, openGate, updateGate } from "../gates/index.ts";
import type { Instant } from "../time.ts";
import {
  clampWeight,
  evenWeight,
  gainingBound,
  isGone,
  type Lot,
  losingBound,
  makeLot,
  present,
  trafficRange,
} from "./exchange.ts";
import { actionsBetween, closing, type Orders } from "./orders.ts";
import { type Forward, progressDueAt, rollbackCause, rollbackDueAt } from "./rollback-causes.ts";
import type {
  Ongoing,
  RollbackReason,
  RolloutDecision,
  RolloutObservation,
  RolloutPlan,
  RolloutState,
} from "./types.ts";

/** A rollout is looked at this often at least, so that being away for long can be told from nothing happening. */
const LOOK_MS_MAX = 5_000;
const AWAY_MS = 3 * LOOK_MS_MAX;
/** After orders the next look comes soon: a bound is raised only after the lower one beside it was ordered. */
const FOLLOW_UP_MS = 100;

type Active = Exclude<RolloutState, { kind: "done" | "rolledBack" | "failed" }>;
type RollingBack = Extract<RolloutState, { kind: "rollingBack" }>;

/** The state in which a rollout begins. */
export function startRollout(now: Instant, plan: RolloutPlan): RolloutState {
  return {
    kind: "starting",
    since: now,
    decidedAt: now,
    resumedAt: now,
    ordered: { weightTo: null, bounds: [] },
    wanted: plan.deployments.map(() => null),
    gate: null,
    progress: { at: now, score: Number.MIN_SAFE_INTEGER },
  };
}

/** Decides what happens next. A rollout that is over stays as it is and orders nothing. */
export function decideRollout(
  now: Instant,
  observation: RolloutObservation,
  state: RolloutState,
  plan: RolloutPlan,
): RolloutDecision {
  if (isOver(state)) return { state, actions: [], wakeAt: null };
  const seen = look(now, observation, state, plan);
  const lots = lotsOf(observation, seen, plan);
  const current = noteProgress(now, lots, seen);
  if (current.kind === "rollingBack") return goBack(now, lots, current, plan);
  const cause = rollbackCause(now, current, lots, observation, plan);
  if (cause !== null) return goBack(now, lots, turnBack(now, lots, current, cause), plan);
  return goOn(now, lots, current, plan);
}

/** Whether a rollout needs no more decisions. */
export function isOver(
  state: RolloutState,
): state is Extract<RolloutState, { kind: "done" | "rolledBack" | "failed" }> {
  return state.kind === "done" || state.kind === "rolledBack" || state.kind === "failed";
}

// --- seeing ---------------------------------------------------------------------------------------------------------

/** Takes in what is new: targets, totals for the gates, and whether the controller was away. */
function look(now: Instant, observation: RolloutObservation, state: Active, plan: RolloutPlan): Active {
  const awayMs = now - state.decidedAt;
  // Deadlines measure what the rollout did; while nobody decided, it could do nothing.
  const forgivenMs = awayMs > AWAY_MS ? awayMs : 0;
  return {
    ...state,
    since: state.since + forgivenMs,
    decidedAt: now,
    resumedAt: forgivenMs > 0 ? now : state.resumedAt,
    progress: { ...state.progress, at: state.progress.at + forgivenMs },
    wanted: plan.deployments.map(({ name }, index) => {
      return observation.deployments.find((one) => one.name === name)?.wanted ?? state.wanted[index] ?? null;
    }),
    gate: lookThroughGate(observation, state, plan),
  };
}

/** The gate opens with the first look of `gating`, so that only what both versions do side by side is compared. */
function lookThroughGate(
  { counters }: RolloutObservation,
  state: Active,
  plan: RolloutPlan,
): GateState | null {
  if (plan.gates === null || state.kind === "rollingBack") return state.gate;
  if (state.gate !== null) return updateGate(state.gate, counters.to, counters.from, plan.gates);
  return state.kind === "gating" ? openGate(counters.to, counters.from) : null;
}

const NO_REPLICAS = { starting: 0, ready: 0, draining: 0 };

function lotsOf(observation: RolloutObservation, state: Active, plan: RolloutPlan): Lot[] {
  return plan.deployments.map((deployment, index) => {
    const seen = observation.deployments.find((one) => one.name === deployment.name);
    const { from, to, held } = seen ?? { from: NO_REPLICAS, to: NO_REPLICAS };
    // Without a target from the autoscaler the present size is what is needed.
    const size = from.starting + from.ready;
    const wanted = state.wanted[index] ?? (deployment.from === null ? 1 : size);
    const ordered = state.ordered.bounds.find((one) => one.deployment === deployment.name);
    return makeLot(deployment, wanted, { from, to, ...(held === undefined ? {} : { held }) }, ordered);
  });
}

/**
 * Progress is a replica that came on the gaining side or went on the losing one; at the start, also that there was room
 * to order one. Another n starts the count anew.
 */
function noteProgress<T extends Active>(now: Instant, lots: readonly Lot[], state: T): T {
  const [gainer, loser] =
    state.kind === "rollingBack" ? (["from", "to"] as const) : (["to", "from"] as const);
  const score = lots.reduce((sum, lot) => {
    const change = state.kind === "starting" ? (lot.to?.ordered ?? 0) : -present(lot[loser]);
    return sum + (lot[gainer]?.ready ?? 0) + change;
  }, 0);
  const before = state.ordered.bounds;
  const resized = lots.some((lot) => {
    const bound = before.find((one) => one.deployment === lot.name);
    return bound !== undefined && lot.wanted < (bound[gainer] ?? 0);
  });
  if (score <= state.progress.score && !resized) return state;
  return { ...state, progress: { at: now, score } };
}

// --- forward --------------------------------------------------------------------------------------------------------

function goOn(now: Instant, lots: readonly Lot[], state: Forward, plan: RolloutPlan): RolloutDecision {
  const { next, isStep } = advance(now, lots, state, plan);
  const weightTo = forwardWeight(lots, next, isStep, plan);
  const isLast = next.kind === "finishing" && weightTo === 1 && isFinished(now, lots, next, plan);
  if (isLast) {
    const why = `${plan.to} serves all traffic`;
    return {
      state: { kind: "done", at: now },
      actions: closing(lots, plan, "to", "done", why),
      wakeAt: null,
    };
  }
  const bounds = lots.map((lot) => forwardBounds(lot, next, weightTo));
  return ordered(now, next, { weightTo, bounds }, plan, forwardDueAt(next, plan));
}

/** The phase after this one, as soon as its condition holds, and whether a step of traffic is due. */
function advance(
  now: Instant,
  lots: readonly Lot[],
  state: Forward,
  plan: RolloutPlan,
): { next: Forward; isStep: boolean } {
  // Each phase measures its own progress.
  const base = { ...ongoing(state), since: now, progress: { at: now, score: Number.MIN_SAFE_INTEGER } };
  const stay = { next: state, isStep: false };
  switch (state.kind) {
    case "starting": {
      if (!lots.every((lot) => lot.to === null || lot.to.ready > 0)) return stay;
      // The first version has nothing to be compared with, and nothing to go back to.
      if (plan.from === null) return { next: { ...base, kind: "finishing" }, isStep: false };
      if (plan.gates !== null) return { next: { ...base, kind: "gating" }, isStep: false };
      return { next: { ...base, kind: "stepping", step: 1, steppedAt: now }, isStep: true };
    }
    case "gating":
      if (now - state.since < plan.stepIntervalMs || !gatePasses(now, state, plan)) return stay;
      return { next: { ...base, kind: "stepping", step: 1, steppedAt: now }, isStep: true };
    case "stepping": {
      if (now - state.steppedAt < plan.stepIntervalMs) return stay;
      if (state.ordered.weightTo === 1) return { next: { ...base, kind: "finishing" }, isStep: false };
      // A step is due as soon as the new version can carry more than it has.
      if (trafficRange(lots).highest <= (state.ordered.weightTo ?? 0)) return stay;
      return { next: { ...state, step: state.step + 1, steppedAt: now }, isStep: true };
    }
    case "finishing":
      return stay;
    default:
      return state satisfies never;
  }
}

function gatePasses(now: Instant, state: Forward, plan: RolloutPlan): boolean {
  if (plan.gates === null || state.gate === null) return plan.gates === null;
  const verdict = judge(state.gate, plan.gates);
  const { unknownPassesAfterMs } = plan.gates;
  if (verdict.kind === "pass") return true;
  return (
    verdict.kind === "unknown" && unknownPassesAfterMs !== null && now - state.since >= unknownPassesAfterMs
  );
}

function forwardWeight(lots: readonly Lot[], state: Forward, isStep: boolean, plan: RolloutPlan): number {
  // Nobody else answers: requests wait for the first version's first replica.
  if (plan.from === null) return 1;
  const range = trafficRange(lots);
  switch (state.kind) {
    case "starting":
      return clampWeight(0, range);
    case "gating":
      return clampWeight(Math.min(range.highest, evenWeight(lots)), range);
    case "stepping":
      return isStep ? range.highest : clampWeight(state.ordered.weightTo ?? 0, range);
    case "finishing":
      return clampWeight(1, range);
    default:
      return state satisfies never;
  }
}

function forwardBounds(lot: Lot, state: Forward, weightTo: number): Orders["bounds"][number] {
  const full = Math.max(1, lot.wanted);
  const few = state.kind === "starting" || state.kind === "gating";
  if (few && lot.from !== null) return provingBounds(lot);
  // From now on the old version only shrinks: what is added is new.
  const needed = losingBound(lot, "from", 1 - weightTo);
  const from = lot.from === null ? null : Math.min(lot.from.ordered ?? needed, needed);
  const to = lot.to === null ? null : gainingBound(lot, "to", full, from ?? 0);
  return { deployment: lot.name, from, to };
}

/** While the new version proves itself it has one replica, and the old one follows the load within the same limit. */
function provingBounds(lot: Lot): Orders["bounds"][number] {
  const from = gainingBound(lot, "from", lot.wanted, lot.to?.ordered ?? 0);
  const to = lot.to === null ? null : gainingBound(lot, "to", 1, from);
  return { deployment: lot.name, from, to };
}

function isFinished(now: Instant, lots: readonly Lot[], state: Forward, plan: RolloutPlan): boolean {
  const gone = lots.every((lot) => isGone(lot.from));
  // A replica that will not go is the node agent's to stop; the rollout does not wait for it for ever.
  return gone || now >= progressDueAt(state, plan);
}

/** Times at which this phase may go on, or be given up, without anything new being seen. */
function forwardDueAt(state: Forward, plan: RolloutPlan): Instant[] {
  const dueAt = rollbackDueAt(state, plan);
  switch (state.kind) {
    case "gating": {
      const unknownMs = plan.gates?.unknownPassesAfterMs ?? 0;
      const timeoutMs = plan.gates?.timeoutMs ?? 0;
      return [dueAt, ...[plan.stepIntervalMs, unknownMs, timeoutMs].map((ms) => state.since + ms)];
    }
    case "stepping":
      return [dueAt, state.steppedAt + plan.stepIntervalMs];
    default:
      return [dueAt];
  }
}

// --- back -----------------------------------------------------------------------------------------------------------

function turnBack(now: Instant, lots: readonly Lot[], state: Forward, reason: RollbackReason): RollingBack {
  const back: RollingBack = { ...ongoing(state), kind: "rollingBack", since: now, reason };
  return noteProgress(now, lots, { ...back, progress: { at: now, score: Number.MIN_SAFE_INTEGER } });
}

function goBack(now: Instant, lots: readonly Lot[], state: RollingBack, plan: RolloutPlan): RolloutDecision {
  const { reason } = state;
  const gone = lots.every((lot) => isGone(lot.to));
  if (plan.from === null) {
    const bounds = lots.map((lot) => ({ deployment: lot.name, from: null, to: lot.to === null ? null : 0 }));
    if (!gone && now < progressDueAt(state, plan)) {
      return ordered(now, state, { weightTo: null, bounds }, plan, [progressDueAt(state, plan)]);
    }
    const actions = closing(lots, plan, "from", "failed", reason.why);
    return { state: { kind: "failed", at: now, reason }, actions, wakeAt: null };
  }
  const weightTo = clampWeight(0, trafficRange(lots));
  if (gone && weightTo === 0) {
    const actions = closing(lots, plan, "from", "rolledBack", reason.why);
    return { state: { kind: "rolledBack", at: now, reason }, actions, wakeAt: null };
  }
  if (now >= progressDueAt(state, plan)) {
    const why = `the way back is stuck (${reason.why})`;
    return {
      state: { kind: "failed", at: now, reason },
      actions: [{ kind: "complete", outcome: "failed", why }],
      wakeAt: null,
    };
  }
  const bounds = lots.map((lot) => backwardBounds(lot, weightTo));
  return ordered(now, state, { weightTo, bounds }, plan, [progressDueAt(state, plan)]);
}

function backwardBounds(lot: Lot, weightTo: number): Orders["bounds"][number] {
  const needed = losingBound(lot, "to", weightTo);
  const to = lot.to === null ? null : Math.min(lot.to.ordered ?? needed, needed);
  const from = lot.from === null ? null : gainingBound(lot, "from", Math.max(1, lot.wanted), to ?? 0);
  return { deployment: lot.name, from, to };
}

// --- both -----------------------------------------------------------------------------------------------------------

function ordered(
  now: Instant,
  state: Active,
  orders: Orders,
  plan: RolloutPlan,
  dueAt: readonly Instant[],
): RolloutDecision {
  const weightTo = settledWeight(state.ordered.weightTo, orders.weightTo);
  const actions = actionsBetween(state.ordered, { ...orders, weightTo }, plan);
  const soon = now + (actions.length > 0 ? FOLLOW_UP_MS : LOOK_MS_MAX);
  return {
    state: { ...state, ordered: { weightTo, bounds: orders.bounds } },
    actions,
    // What is due already did not help this time: only something new can.
    wakeAt: Math.min(soon, ...dueAt.filter((at) => at > now)),
  };
}

/** The new weight, or the one before when only rounding differs. */
function settledWeight(before: number | null, next: number | null): number | null {
  if (next === null || (before !== null && Math.abs(next - before) < 1e-9)) return before;
  return next;
}

const ongoing = ({ since, decidedAt, resumedAt, ordered, wanted, gate, progress }: Ongoing): Ongoing => ({
  since,
  decidedAt,
  resumedAt,
  ordered,
  wanted,
  gate,
  progress,
});
