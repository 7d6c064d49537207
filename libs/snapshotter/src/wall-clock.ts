// Wall-clock time finer than the millisecond of `Date.now()`: containerd compares our times with its own, in ns.

const NS_PER_MS = 1_000_000;

export type Clocks = {
  /** Epoch ms, whole. */
  systemMs: () => number;
  monotonicMs: () => number;
  /** Epoch ms, with fractions, at which the monotonic clock was 0. */
  originMs: number;
};

const MACHINE: Clocks = {
  systemMs: Date.now,
  monotonicMs: () => performance.now(),
  originMs: performance.timeOrigin,
};

/** Gives epoch ns: runs with the monotonic clock, and follows the system's clock wherever it goes to within a millisecond. */
export function wallClock({ systemMs, monotonicMs, originMs }: Clocks = MACHINE): () => bigint {
  let offsetMs = originMs;
  return () => {
    const wall = systemMs();
    const ahead = monotonicMs() + offsetMs - wall;
    const within = Math.min(Math.max(ahead, 0), 1 - 1 / NS_PER_MS);
    offsetMs += within - ahead;
    return BigInt(wall) * BigInt(NS_PER_MS) + BigInt(Math.floor(within * NS_PER_MS));
  };
}
