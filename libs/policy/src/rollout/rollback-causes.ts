// Why a rollout is undone: an ordered list that reads as the policy. The first cause that applies is the one reported.
import { judge } from "../gates/index.ts";
import type { Instant } from "../time.ts";
import type { Lot } from "./exchange.ts";
import type { Ongoing, RollbackReason, RolloutObservation, RolloutPlan, RolloutState } from "./types.ts";

/** A phase before any way back. */
export type Forward = Extract<RolloutState, { kind: "starting" | "gating" | "stepping" | "finishing" }>;

/** Time beyond the configured limits that controllers may take to see and to act. */
const SLACK_MS = 10_000;

/** The cause to undo the rollout now, or null. */
export function rollbackCause(
  now: Instant,
  state: Forward,
  lots: readonly Lot[],
  observation: RolloutObservation,
  plan: RolloutPlan,
): RollbackReason | null {
  return (
    stopped(state, observation) ??
    crashLoop(observation, plan) ??
    heartbeatLost(now, state, lots, observation, plan) ??
    gateFailed(now, state, plan) ??
    late(now, state, lots, observation, plan)
  );
}

/** When the next cause could apply without anything new being seen. */
export function rollbackDueAt(state: Ongoing & { kind: string }, plan: RolloutPlan): Instant {
  return state.kind === "starting" ? startDueAt(state, plan) : progressDueAt(state, plan);
}

/** A rollout that changes nothing for this long is stuck: the longest step is a drain, then a start. */
export const progressDueAt = (state: Ongoing, plan: RolloutPlan): Instant =>
  state.progress.at + plan.drainTimeoutMs + plan.startTimeoutMs + plan.stepIntervalMs + SLACK_MS;

const startDueAt = (state: Ongoing, plan: RolloutPlan): Instant =>
  Math.max(state.since, state.progress.at) + plan.startTimeoutMs + SLACK_MS;

function stopped(state: Forward, { stop }: RolloutObservation): RollbackReason | null {
  if (stop === "aborted") return { kind: "aborted", why: "a person asked for it" };
  // At the very end going on is quicker than going back, and the newer version starts from here as well as from there.
  if (stop === "superseded" && state.kind !== "finishing") {
    return { kind: "superseded", why: "a newer version is waiting" };
  }
  return null;
}

function crashLoop({ crashes, crashWhy }: RolloutObservation, plan: RolloutPlan): RollbackReason | null {
  if (crashes <= plan.crashesMax) return null;
  const last = crashWhy === null ? "" : `, the last one: ${crashWhy}`;
  return { kind: "crashLoop", why: `${crashes} replicas failed; ${plan.crashesMax} are tolerated${last}` };
}

/**
 * Silence of the new version counts only while the old one is heard: when both are silent, the messages are lost and
 * not the replicas.
 */
function heartbeatLost(
  now: Instant,
  state: Forward,
  lots: readonly Lot[],
  { heardAt }: RolloutObservation,
  plan: RolloutPlan,
): RollbackReason | null {
  const silentSince = Math.max(heardAt.to ?? state.resumedAt, state.resumedAt);
  const isReady = lots.some((lot) => (lot.to?.ready ?? 0) > 0);
  const silent = isReady && now - silentSince > plan.heartbeatTimeoutMs;
  const otherHeard = heardAt.from !== null && now - heardAt.from <= plan.heartbeatTimeoutMs;
  if (!silent || !otherHeard) return null;
  return { kind: "heartbeatLost", why: `nothing was heard of ${plan.to} for ${now - silentSince} ms` };
}

function gateFailed(now: Instant, state: Forward, plan: RolloutPlan): RollbackReason | null {
  if (plan.gates === null || state.gate === null) return null;
  const verdict = judge(state.gate, plan.gates);
  if (verdict.kind === "fail") return { kind: "gateFailed", why: `${verdict.test}: ${verdict.why}` };
  if (state.kind === "gating" && verdict.kind === "unknown" && now - state.since >= plan.gates.timeoutMs) {
    const why = `${verdict.requests} of ${verdict.samplesMin} requests after ${now - state.since} ms`;
    return { kind: "gateTimeout", why };
  }
  return null;
}

function late(
  now: Instant,
  state: Forward,
  lots: readonly Lot[],
  { crashWhy }: RolloutObservation,
  plan: RolloutPlan,
): RollbackReason | null {
  const last = crashWhy === null ? "" : `; the last failure: ${crashWhy}`;
  if (state.kind === "starting" && now >= startDueAt(state, plan)) {
    const missing = lots.filter((lot) => lot.to !== null && lot.to.ready === 0).map((lot) => lot.name);
    const why = `no replica of ${missing.join(", ")} was ready within ${plan.startTimeoutMs} ms${last}`;
    return { kind: "startTimeout", why };
  }
  if (state.kind === "stepping" && now >= progressDueAt(state, plan)) {
    return { kind: "noProgress", why: `nothing moved for ${now - state.progress.at} ms${last}` };
  }
  return null;
}
