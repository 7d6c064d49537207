// Writes the newest value of each key, soon and in batches. What changes while a write runs waits for the next one, so
// however fast documents come the database sees one statement at a time, and memory holds one value a key.
import { setTimeout as sleep } from "node:timers/promises";
import { toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";

export type CoalescingWriter<T> = {
  put(key: string, value: T): void;
  /** Resolves when everything put so far is written. */
  flushed(): Promise<void>;
  /** Writes what waits, then stops. */
  close(): Promise<void>;
};

const RETRY_AFTER_MS = 1_000;
const BATCH_MAX = 500;

/** Starts a writer. A write that fails is tried again until it works or the writer is closed. */
export function startCoalescingWriter<T>(write: (values: T[]) => Promise<unknown>): CoalescingWriter<T> {
  const pending = new Map<string, T>();
  let closed = false;
  let running: Promise<void> = Promise.resolve();
  let active = false;

  const drain = async (): Promise<void> => {
    while (pending.size > 0) {
      const batch = [...pending].slice(0, BATCH_MAX);
      for (const [key] of batch) pending.delete(key);
      try {
        await write(batch.map(([, value]) => value));
      } catch (error) {
        if (closed) return;
        logger("writer").warn("will write again", { error: toPlatformError(error) });
        for (const [key, value] of batch) if (!pending.has(key)) pending.set(key, value);
        await sleep(RETRY_AFTER_MS);
      }
    }
  };
  const kick = () => {
    if (active) return;
    active = true;
    running = drain().finally(() => {
      active = false;
      if (pending.size > 0 && !closed) kick();
    });
  };
  return {
    put(key, value) {
      pending.set(key, value);
      kick();
    },
    flushed: () => running,
    async close() {
      closed = true;
      await running;
    },
  };
}
