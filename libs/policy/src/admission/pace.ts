// How fast a queue moves: the rate over the last departures, up to now, so that a queue that stopped moving is seen
// to slow down although no event says so.
import type { Instant } from "../time.ts";

const DEPARTURES_MAX = 32;

/** Times of the last departures, oldest first. Plain data; a new value per departure. */
export type Pace = readonly Instant[];

export const paceEmpty: Pace = [];

/** The pace after one more departure. */
export function paceWith(pace: Pace, now: Instant): Pace {
  return [...pace.slice(-(DEPARTURES_MAX - 1)), now];
}

/** Departures per ms; null before two departures at different times. */
export function pacePerMs(pace: Pace, now: Instant): number | null {
  const oldest = pace[0];
  if (oldest === undefined || pace.length < 2 || now <= oldest) return null;
  return (pace.length - 1) / (now - oldest);
}
