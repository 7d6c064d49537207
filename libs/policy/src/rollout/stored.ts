// A rollout's plan and state as schemas, for whoever keeps them and reads them back.
import * as z from "zod";
import { gateConfigFields, gateStateSchema } from "../gates/stored.ts";
import type { RollbackReason, RolloutPlan, RolloutState } from "./types.ts";

const side = z.strictObject({ accelerators: z.number() }).nullable();

export const rolloutPlanSchema: z.ZodType<RolloutPlan> = z.strictObject({
  from: z.string().nullable(),
  to: z.string(),
  deployments: z.array(z.strictObject({ name: z.string(), from: side, to: side, surge: z.number() })),
  stepIntervalMs: z.number(),
  crashesMax: z.number(),
  heartbeatTimeoutMs: z.number(),
  startTimeoutMs: z.number(),
  drainTimeoutMs: z.number(),
  gates: z
    .strictObject({
      ...gateConfigFields,
      unknownPassesAfterMs: z.number().nullable(),
      timeoutMs: z.number(),
    })
    .nullable(),
});

const reason: z.ZodType<RollbackReason> = z.strictObject({
  kind: z.enum([
    "aborted",
    "superseded",
    "crashLoop",
    "startTimeout",
    "heartbeatLost",
    "gateFailed",
    "gateTimeout",
    "noProgress",
  ]),
  why: z.string(),
});

const ongoing = {
  since: z.number(),
  decidedAt: z.number(),
  resumedAt: z.number(),
  ordered: z.strictObject({
    weightTo: z.number().nullable(),
    bounds: z.array(
      z.strictObject({ deployment: z.string(), from: z.number().nullable(), to: z.number().nullable() }),
    ),
  }),
  wanted: z.array(z.number().nullable()),
  gate: gateStateSchema.nullable(),
  progress: z.strictObject({ at: z.number(), score: z.number() }),
};

export const rolloutStateSchema: z.ZodType<RolloutState> = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("starting"), ...ongoing }),
  z.strictObject({ kind: z.literal("gating"), ...ongoing }),
  z.strictObject({ kind: z.literal("stepping"), ...ongoing, step: z.number(), steppedAt: z.number() }),
  z.strictObject({ kind: z.literal("finishing"), ...ongoing }),
  z.strictObject({ kind: z.literal("rollingBack"), ...ongoing, reason }),
  z.strictObject({ kind: z.literal("done"), at: z.number() }),
  z.strictObject({ kind: z.literal("rolledBack"), at: z.number(), reason }),
  z.strictObject({ kind: z.literal("failed"), at: z.number(), reason }),
]);
