// The autoscaler's state as a schema, for whoever keeps it and reads it back.
import * as z from "zod";
import type { AutoscalingState } from "./types.ts";

export const autoscalingStateSchema: z.ZodType<AutoscalingState> = z.strictObject({
  target: z.number().nullable(),
  more: z.strictObject({ since: z.number(), lowest: z.number() }).nullable(),
  window: z.array(z.strictObject({ at: z.number(), highest: z.number() })),
  idleSince: z.number().nullable(),
  perReplicaPerS: z.number().nullable(),
  nextOrdinal: z.number(),
  failures: z.array(z.strictObject({ version: z.string(), count: z.number(), lastAt: z.number() })),
});
