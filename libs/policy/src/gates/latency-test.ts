// Is the candidate slower? The geometric means of a duration are compared in blocks of time: each block gives one
// difference of mean logarithms between requests that ran at the same time, so a load that changes during the rollout
// (while the candidate's share grows) does not look like a difference between versions (Simpson's paradox).
//
// With h = n1 n0 / (n1 + n0) per block and d its difference beyond the limit, S = sum h d has variance sigma^2 sum h, and
//   log ratio(delta) = (delta S - delta^2 H / 2) / sigma^2
// is the normal likelihood ratio of "slower by delta" (mSPRT with a discrete mixture, see evidence.ts). sigma^2 is the
// larger of the spread within blocks and the one that the blocks' differences show: durations in a queue are
// correlated, and a spread taken as if they were independent would raise false alarms. Asymptotic: it relies on block
// means being nearly normal, which logarithms of durations make plausible.
import type { LatencyTestState, LogMoments } from "./types.ts";

/** Slower by 5, 10, 20, 50, 100 or 300 percent more than allowed. */
const SHIFTS = [1.05, 1.1, 1.2, 1.5, 2, 4].map((factor) => Math.log(factor));
/** Requests that each version needs to end a block, and blocks that are needed to say anything. */
const BLOCK_SAMPLES = 5;
const BLOCKS_MIN = 3;
/** A spread below this (1 %) is not believed: it would make any difference certain. */
const VARIANCE_MIN = 1e-4;

export const noMoments: LogMoments = { count: 0, sum: 0, sumOfSquares: 0 };

/** Adds one measured duration in ms to the sums. */
export function addDuration(moments: LogMoments, durationMs: number): LogMoments {
  const log = Math.log(Math.max(0.001, durationMs));
  return {
    count: moments.count + 1,
    sum: moments.sum + log,
    sumOfSquares: moments.sumOfSquares + log * log,
  };
}

export const emptyLatencyTest = (): LatencyTestState => ({
  pending: { candidate: noMoments, stable: noMoments },
  blocks: 0,
  weight: 0,
  weightedDifference: 0,
  weightedSquare: 0,
  withinSquares: 0,
  withinFreedom: 0,
});

/** Adds what both versions measured in one stretch of time. `ratioMax`: how many times slower is allowed. */
export function addToLatencyTest(
  state: LatencyTestState,
  candidate: LogMoments,
  stable: LogMoments,
  ratioMax: number,
): LatencyTestState {
  const pending = {
    candidate: plus(state.pending.candidate, candidate),
    stable: plus(state.pending.stable, stable),
  };
  const { candidate: one, stable: other } = pending;
  if (one.count < BLOCK_SAMPLES || other.count < BLOCK_SAMPLES) return { ...state, pending };
  const difference = one.sum / one.count - other.sum / other.count - Math.log(ratioMax);
  const weight = (one.count * other.count) / (one.count + other.count);
  return {
    pending: { candidate: noMoments, stable: noMoments },
    blocks: state.blocks + 1,
    weight: state.weight + weight,
    weightedDifference: state.weightedDifference + weight * difference,
    weightedSquare: state.weightedSquare + weight * difference * difference,
    withinSquares: state.withinSquares + squares(one) + squares(other),
    withinFreedom: state.withinFreedom + one.count + other.count - 2,
  };
}

/** Log likelihood ratios per shift; all zero while too little is known. */
export function latencyEvidence(state: LatencyTestState): number[] {
  if (state.blocks < BLOCKS_MIN || state.withinFreedom === 0) return SHIFTS.map(() => 0);
  const mean = state.weightedDifference / state.weight;
  const between = (state.weightedSquare - state.weight * mean * mean) / (state.blocks - 1);
  const variance = Math.max(VARIANCE_MIN, state.withinSquares / state.withinFreedom, between);
  return SHIFTS.map(
    (shift) => (shift * state.weightedDifference - (shift * shift * state.weight) / 2) / variance,
  );
}

const plus = (a: LogMoments, b: LogMoments): LogMoments => ({
  count: a.count + b.count,
  sum: a.sum + b.sum,
  sumOfSquares: a.sumOfSquares + b.sumOfSquares,
});

/** Sum of squared deviations from the mean. */
const squares = (m: LogMoments) => Math.max(0, m.sumOfSquares - (m.sum * m.sum) / m.count);
