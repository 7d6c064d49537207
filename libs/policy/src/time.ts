// Time as the policies see it: numbers handed in by the caller, never read from a clock.

/** Milliseconds since the Unix epoch. */
export type Instant = number;

/** The earlier of two wake-up times, where null means "no need to wake". */
export function earlier(a: Instant | null, b: Instant | null): Instant | null {
  if (a === null) return b;
  return b === null ? a : Math.min(a, b);
}
