// The gates' data as a schema, for whoever keeps it and reads it back.
import * as z from "zod";
import type { GateConfig, GateState, LatencyTestState, LogMoments, VersionCounters } from "./types.ts";

const moments: z.ZodType<LogMoments> = z.strictObject({
  count: z.number(),
  sum: z.number(),
  sumOfSquares: z.number(),
});

const counters: z.ZodType<VersionCounters> = z.strictObject({
  requests: z.number(),
  errors: z.number(),
  ttft: moments,
  timePerOutputToken: moments,
});

const latencyTest: z.ZodType<LatencyTestState> = z.strictObject({
  pending: z.strictObject({ candidate: moments, stable: moments }),
  blocks: z.number(),
  weight: z.number(),
  weightedDifference: z.number(),
  weightedSquare: z.number(),
  withinSquares: z.number(),
  withinFreedom: z.number(),
});

export const gateStateSchema: z.ZodType<GateState> = z.strictObject({
  seen: z.strictObject({ candidate: counters, stable: counters }),
  requests: z.number(),
  errors: z.number(),
  errorRate: z.array(z.number()),
  errorRatio: z.array(z.number()),
  ttft: latencyTest,
  timePerOutputToken: latencyTest,
});

export const gateConfigFields = {
  errorRateMax: z.number(),
  errorRatioMax: z.number(),
  ttftRatioMax: z.number(),
  timePerOutputTokenRatioMax: z.number(),
  samplesMin: z.number(),
  falseAlarmMax: z.number(),
} satisfies Record<keyof GateConfig, z.ZodType<number>>;
