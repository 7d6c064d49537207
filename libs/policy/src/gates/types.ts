// What a gate compares, and what it says.

/** Sums over the natural logarithms of durations in ms: enough for a geometric mean and its spread. */
export type LogMoments = { count: number; sum: number; sumOfSquares: number };

/** Totals of one version since some start; they only grow. A total that falls is taken as a restart from zero. */
export type VersionCounters = {
  /** Requests that ended, failed ones included. */
  requests: number;
  /** Requests that failed by the version's fault: 5xx, broken streams. Not what a client cancelled or sent wrongly. */
  errors: number;
  ttft: LogMoments;
  timePerOutputToken: LogMoments;
};

export type GateConfig = {
  /** The share of errors that the candidate may have by itself. */
  errorRateMax: number;
  /** How many times the stable version's error rate it may have. */
  errorRatioMax: number;
  /** How many times the stable version's time to first token it may take, by geometric mean. */
  ttftRatioMax: number;
  timePerOutputTokenRatioMax: number;
  /** Requests the candidate must have answered before the gate can pass. */
  samplesMin: number;
  /** Chance, over the whole rollout and all tests, that a candidate within the limits is failed. */
  falseAlarmMax: number;
};

export type GateTest = "errorRate" | "errorRatio" | "ttft" | "timePerOutputToken";

export type GateVerdict =
  | { kind: "pass" }
  /** Too few requests to say anything. */
  | { kind: "unknown"; requests: number; samplesMin: number }
  | { kind: "fail"; test: GateTest; why: string };

/** What the latency test remembers: weighted differences of block means of logarithms, and the spread within blocks. */
export type LatencyTestState = {
  pending: { candidate: LogMoments; stable: LogMoments };
  blocks: number;
  weight: number;
  weightedDifference: number;
  weightedSquare: number;
  withinSquares: number;
  withinFreedom: number;
};

export type GateState = {
  seen: { candidate: VersionCounters; stable: VersionCounters };
  /** Totals of the candidate since the gate was opened. */
  requests: number;
  errors: number;
  /** Log likelihood ratio per alternative, in the order of the test's grid. */
  errorRate: number[];
  errorRatio: number[];
  ttft: LatencyTestState;
  timePerOutputToken: LatencyTestState;
};
