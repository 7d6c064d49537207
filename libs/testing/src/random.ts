// Seeded randomness for tests and simulations: a failure names its seed, and the seed brings it back.

/** Mulberry32 (https://gist.github.com/tommyettinger/46a874533244883189143505d203312c): small, fast, good enough for tests. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `SEED=n` repeats one case; otherwise `count` fixed seeds. */
export function seeds(count: number): number[] {
  const only = process.env.SEED;
  return only === undefined ? Array.from({ length: count }, (_, index) => index + 1) : [Number(only)];
}
