// The slow tail of a load: a range that takes much longer than its like is asked for a second time on another connection, and
// the first complete answer counts. The second reading goes to a place of its own until it has won: two writers in one place
// could leave bytes there that no checksum has seen (I6).
//   H1. Second requests are at most a share of all, so a store that is slow for everybody is not asked twice for everything.
import { Deadline } from "./deadline.ts";

/** Durations that are looked back on. */
const MEMORY = 32;
const KNOWN_MIN = 8;
/** So much longer than the median is slow. */
const SLOW_FACTOR = 4;
/** A small load has a slow tail too. */
const BUDGET_MIN = 2;

export type HedgeLimits = {
  /** Second requests are at most this share of all, and a few; 0: none. */
  hedgeShareMax: number;
  /** What arrived within this is never slow, ms. */
  hedgeAfterMsMin: number;
};

/** Tells when a range is slow, and whether the budget has room. */
export class HedgePolicy {
  readonly #limits: HedgeLimits;
  readonly #durations: number[] = [];
  #finished = 0;
  #hedges = 0;

  constructor(limits: HedgeLimits) {
    this.#limits = limits;
  }

  /** A range arrived after this long. */
  finished(durationMs: number): void {
    this.#durations[this.#finished % MEMORY] = durationMs;
    this.#finished += 1;
  }

  /** After how long a range counts as slow, ms; infinite while too little is known. */
  slowAfterMs(): number {
    if (this.#finished < KNOWN_MIN) return Number.POSITIVE_INFINITY;
    const sorted = this.#durations.toSorted((a, b) => a - b);
    return Math.max(this.#limits.hedgeAfterMsMin, SLOW_FACTOR * (sorted[sorted.length >> 1] as number));
  }

  /** Takes one from the budget (H1). */
  mayHedge(): boolean {
    const share = this.#limits.hedgeShareMax;
    if (share === 0 || this.#hedges >= BUDGET_MIN + this.#finished * share) return false;
    this.#hedges += 1;
    return true;
  }

  get hedges(): number {
    return this.#hedges;
  }
}

export type Contender = { run(signal: AbortSignal): Promise<void> };

/**
 * Runs `first`; when it is slow and the policy allows it, `second` beside it. Gives the winner once the other has ended. When
 * both fail, the first one's failure is thrown.
 */
export async function hedged<First extends Contender, Second extends Contender>(
  policy: HedgePolicy,
  first: First,
  /** Undefined: there is no place for a second reading. */
  makeSecond: () => Second | undefined,
  signal: AbortSignal,
): Promise<First | Second> {
  const running = start(first, signal);
  if (!(await isSlow(running.done, policy.slowAfterMs())) || !policy.mayHedge()) {
    await running.done;
    running.rethrow();
    return first;
  }
  const second = makeSecond();
  if (second === undefined) {
    await running.done;
    running.rethrow();
    return first;
  }
  const beside = start(second, signal);
  await Promise.race([running.succeeded, beside.succeeded, Promise.all([running.done, beside.done])]);
  const winner = running.ok ? running : beside.ok ? beside : undefined;
  if (winner !== running) running.stop();
  if (winner !== beside) beside.stop();
  await Promise.all([running.done, beside.done]);
  if (winner === undefined) running.rethrow();
  return winner === beside ? second : first;
}

function start(contender: Contender, outer: AbortSignal) {
  const stopper = new Deadline(outer);
  const state = {
    ok: false,
    stop: () => stopper.stop(),
    failure: undefined as unknown,
    rethrow(): void {
      if (!state.ok) throw state.failure;
    },
  };
  const done = contender
    .run(stopper.signal)
    .then(
      () => {
        state.ok = true;
      },
      (error: unknown) => {
        state.failure = error;
      },
    )
    .finally(() => stopper.end());
  // Never settles for one that fails: the other may still succeed.
  const succeeded = new Promise<void>((resolve) => {
    void done.then(() => {
      if (state.ok) resolve();
    });
  });
  return Object.assign(state, { done, succeeded });
}

async function isSlow(done: Promise<void>, afterMs: number): Promise<boolean> {
  if (!Number.isFinite(afterMs)) {
    await done;
    return false;
  }
  let timer: NodeJS.Timeout | undefined;
  const slow = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(true), afterMs);
  });
  const outcome = await Promise.race([done.then(() => false), slow]);
  clearTimeout(timer);
  return outcome;
}
