// The shell around a pure decision: who is to be asked again, and when.
//
//   S1. A key is stepped as soon as something happened to it; what happens within `coalesceMs` of a step counts together.
//   S2. Steps run one after the other, over all keys: they share a fleet, and a step must see what the last one did.
//   S3. A step says when it wants to be woken. Anything that happens before wakes it too.
//   S4. A step that failed is tried again after a growing delay; others are not held up by it.
//   S5. Without anything to do there is no timer and no work.
import { backoffMs, type RetryPolicy, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";

export type StepperOptions = {
  /** Decides about one key. Gives when to be called again at the latest (epoch ms), or null. */
  step: (key: string) => Promise<number | null>;
  /** Least time between two steps of a key. */
  coalesceMs: number;
};

export type Stepper = {
  /** Something happened to `key`. */
  poke(key: string): void;
  /** Steps `key` at this time (epoch ms) at the latest. */
  wakeAt(key: string, at: number): void;
  /** Ends all timers, and waits for the step in hand. */
  close(): Promise<void>;
};

type Known = { dueAt: number; steppedAt: number; failures: number };

const FAILED: RetryPolicy = { attemptsMax: 1_000_000, initialDelayMs: 100, delayMsMax: 5_000 };
/** The longest delay that a timer of Node takes. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Starts with nothing to do. */
export function createStepper(options: StepperOptions): Stepper {
  const log = logger("stepper");
  const keys = new Map<string, Known>();
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> | undefined;
  let closed = false;

  const schedule = (): void => {
    clearTimeout(timer);
    if (closed || running !== undefined) return;
    const dueAt = Math.min(...[...keys.values()].map((known) => known.dueAt));
    if (dueAt === Number.POSITIVE_INFINITY) return;
    timer = setTimeout(run, Math.min(TIMER_MS_MAX, Math.max(0, dueAt - Date.now())));
  };

  const due = (key: string, at: number): void => {
    const known = keys.get(key) ?? { dueAt: Number.POSITIVE_INFINITY, steppedAt: 0, failures: 0 };
    keys.set(key, known);
    const earliest = Math.max(at, known.steppedAt + options.coalesceMs);
    if (earliest >= known.dueAt) return;
    known.dueAt = earliest;
    schedule();
  };

  function run(): void {
    running = runDue().finally(() => {
      running = undefined;
      schedule();
    });
  }

  async function runDue(): Promise<void> {
    for (;;) {
      const now = Date.now();
      // The one that has waited longest, so that no key starves another.
      const [next] = [...keys]
        .filter(([, known]) => known.dueAt <= now)
        .sort(([, a], [, b]) => a.dueAt - b.dueAt);
      if (next === undefined || closed) return;
      await stepOne(...next);
    }
  }

  async function stepOne(key: string, known: Known): Promise<void> {
    known.dueAt = Number.POSITIVE_INFINITY;
    known.steppedAt = Date.now();
    try {
      const wakeAt = await options.step(key);
      known.failures = 0;
      if (wakeAt !== null) due(key, wakeAt);
      else if (known.dueAt === Number.POSITIVE_INFINITY) keys.delete(key);
    } catch (error) {
      known.failures++;
      const delayMs = backoffMs(FAILED, known.failures, Math.random());
      log.warn("step failed; will try again", { key, delayMs, error: toPlatformError(error) });
      due(key, Date.now() + delayMs);
    }
  }

  return {
    poke: (key) => due(key, Date.now()),
    wakeAt: due,
    async close() {
      closed = true;
      clearTimeout(timer);
      await running;
    },
  };
}
