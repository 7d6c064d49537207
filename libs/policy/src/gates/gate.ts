// The gate of a rollout: feeds totals of both versions into the tests and says pass, fail or unknown.
//
//   G1. It may be asked at any time, any number of times; the chance of failing a candidate that keeps the limits stays
//       below `falseAlarmMax` over the whole rollout (the level is divided among the tests).
//   G2. Lost or repeated observations do no harm: totals come in, and only their growth counts.
//   G3. Too few requests is `unknown`, which is neither pass nor fail; the rollout's plan says what follows from it.
import { addToErrorRate, addToErrorRatio, emptyErrorRate, emptyErrorRatio } from "./error-tests.ts";
import { isConvincing } from "./evidence.ts";
import { addToLatencyTest, emptyLatencyTest, latencyEvidence, noMoments } from "./latency-test.ts";
import type { GateConfig, GateState, GateTest, GateVerdict, LogMoments, VersionCounters } from "./types.ts";

/** Totals of a version that has not answered anything. */
export const noCounters: VersionCounters = {
  requests: 0,
  errors: 0,
  ttft: noMoments,
  timePerOutputToken: noMoments,
};

/** Opens a gate: only what comes after these totals counts. */
export function openGate(candidate: VersionCounters | null, stable: VersionCounters | null): GateState {
  return {
    seen: { candidate: candidate ?? noCounters, stable: stable ?? noCounters },
    requests: 0,
    errors: 0,
    errorRate: emptyErrorRate(),
    errorRatio: emptyErrorRatio(),
    ttft: emptyLatencyTest(),
    timePerOutputToken: emptyLatencyTest(),
  };
}

/** Takes in newer totals. null: nothing new is known of that version. */
export function updateGate(
  state: GateState,
  candidate: VersionCounters | null,
  stable: VersionCounters | null,
  config: GateConfig,
): GateState {
  const newer = { candidate: candidate ?? state.seen.candidate, stable: stable ?? state.seen.stable };
  const one = growth(state.seen.candidate, newer.candidate);
  const other = growth(state.seen.stable, newer.stable);
  return {
    seen: newer,
    requests: state.requests + one.requests,
    errors: state.errors + one.errors,
    errorRate: addToErrorRate(state.errorRate, one.requests, one.errors, config.errorRateMax),
    errorRatio: addToErrorRatio(state.errorRatio, one, other, config.errorRatioMax),
    ttft: addToLatencyTest(state.ttft, one.ttft, other.ttft, config.ttftRatioMax),
    timePerOutputToken: addToLatencyTest(
      state.timePerOutputToken,
      one.timePerOutputToken,
      other.timePerOutputToken,
      config.timePerOutputTokenRatioMax,
    ),
  };
}

/** What the gate says now. */
export function judge(state: GateState, config: GateConfig): GateVerdict {
  const evidence: Record<GateTest, number[]> = {
    errorRate: state.errorRate,
    errorRatio: state.errorRatio,
    ttft: latencyEvidence(state.ttft),
    timePerOutputToken: latencyEvidence(state.timePerOutputToken),
  };
  const tests = Object.keys(evidence) as GateTest[];
  const failed = tests.find((test) => isConvincing(evidence[test], config.falseAlarmMax / tests.length));
  if (failed !== undefined) return { kind: "fail", test: failed, why: explain(failed, state, config) };
  if (state.requests < config.samplesMin) {
    return { kind: "unknown", requests: state.requests, samplesMin: config.samplesMin };
  }
  return { kind: "pass" };
}

function explain(test: GateTest, state: GateState, config: GateConfig): string {
  const failures = `${state.errors} of ${state.requests} requests failed`;
  switch (test) {
    case "errorRate":
      return `${failures}; at most ${percent(config.errorRateMax)} may`;
    case "errorRatio":
      return `${failures}, more than ${config.errorRatioMax} times the other version's share`;
    case "ttft":
      return slower("time to first token", state.ttft, config.ttftRatioMax);
    case "timePerOutputToken":
      return slower("time per output token", state.timePerOutputToken, config.timePerOutputTokenRatioMax);
    default:
      return test satisfies never;
  }
}

function slower(what: string, test: GateState["ttft"], ratioMax: number): string {
  const ratio = Math.exp(test.weightedDifference / test.weight) * ratioMax;
  return `${what} is ${ratio.toFixed(2)} times the other version's; at most ${ratioMax} is allowed`;
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`;

/** How much the totals grew; a total that fell started again from zero. */
function growth(before: VersionCounters, after: VersionCounters): VersionCounters {
  if (after.requests < before.requests || after.ttft.count < before.ttft.count) return after;
  return {
    requests: after.requests - before.requests,
    errors: Math.max(0, after.errors - before.errors),
    ttft: minus(after.ttft, before.ttft),
    timePerOutputToken: minus(after.timePerOutputToken, before.timePerOutputToken),
  };
}

const minus = (a: LogMoments, b: LogMoments): LogMoments => ({
  count: Math.max(0, a.count - b.count),
  sum: a.sum - b.sum,
  sumOfSquares: a.sumOfSquares - b.sumOfSquares,
});
