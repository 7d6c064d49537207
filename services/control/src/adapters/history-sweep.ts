// Forgets what is over for long.
import { toPlatformError } from "@pilotlight/errors";
import type { Store } from "@pilotlight/store";
import { logger } from "@pilotlight/telemetry";
import { deleteWeightsBefore } from "../store/artifacts.ts";
import { deleteGoneBefore } from "../store/replicas.ts";
import { deleteEndedBefore } from "../store/rollouts.ts";

/** Deletes old history now and then. The result ends it. */
export function startHistorySweep(
  store: Store,
  options: { historyKeepMs: number; historySweepIntervalMs: number },
): () => void {
  const sweep = async () => {
    const before = new Date(Date.now() - options.historyKeepMs);
    await deleteGoneBefore(store.sql, before);
    await deleteEndedBefore(store.sql, before);
    await deleteWeightsBefore(store.sql, before);
  };
  const timer = setInterval(() => {
    sweep().catch((error) =>
      logger("history").warn("sweep failed; will try again", { error: toPlatformError(error) }),
    );
  }, options.historySweepIntervalMs);
  return () => clearInterval(timer);
}
