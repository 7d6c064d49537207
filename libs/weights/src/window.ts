// How many ranges to keep in flight. A store, a link and their delay are not known before they are tried: the window grows
// while more ranges bring more bytes, keeps what was enough, tries again from time to time, and halves when the far side
// asks for less. Pure: the caller brings the clock.

export type WindowLimits = { initial: number; max: number };

export type Window = {
  /** Ranges to have in flight now. */
  readonly size: number;
  readonly limits: WindowLimits;
  /** What is being measured: bytes and arrivals since `since` (ms); undefined until something has arrived: connecting is no rate. */
  readonly since: number | undefined;
  readonly bytes: number;
  readonly arrivals: number;
  /** Bytes per ms of the interval before the last growth; 0: nothing measured yet. */
  readonly baseRate: number;
  /** Size before the last growth that has not been judged yet. */
  readonly before: number | undefined;
  /** Intervals to rest before the next try. */
  readonly rest: number;
};

/** An interval is judged after this long and one arrival for each range in flight. */
const INTERVAL_MS_MIN = 100;
const GROWTH = 1.5;
/** A growth must bring this much more to be kept. */
const GAIN_MIN = 1.08;
const REST_INTERVALS = 10;

export function startWindow(limits: WindowLimits): Window {
  const size = Math.min(limits.initial, limits.max);
  return { size, limits, since: undefined, bytes: 0, arrivals: 0, baseRate: 0, before: undefined, rest: 0 };
}

/** A range of this many bytes has arrived. */
export function arrived(window: Window, bytes: number, now: number): Window {
  if (window.since === undefined) return { ...window, since: now };
  const next = { ...window, bytes: window.bytes + bytes, arrivals: window.arrivals + 1 };
  const elapsed = now - window.since;
  if (elapsed < INTERVAL_MS_MIN || next.arrivals < window.size) return next;
  return judged({ ...next, since: now, bytes: 0, arrivals: 0 }, next.bytes / elapsed);
}

/** The far side asked for less (503, 429). */
export function refused(window: Window, now: number): Window {
  // What was in flight when it spoke counts as one refusal.
  if (window.rest === REST_INTERVALS && window.since !== undefined && now - window.since < INTERVAL_MS_MIN)
    return window;
  const size = Math.max(1, window.size >> 1);
  return { ...startWindow(window.limits), since: now, size, rest: REST_INTERVALS };
}

function judged(window: Window, rate: number): Window {
  if (window.before !== undefined && rate < window.baseRate * GAIN_MIN) {
    return { ...window, size: window.before, before: undefined, rest: REST_INTERVALS };
  }
  if (window.rest > 0) return { ...window, rest: window.rest - 1, before: undefined };
  const size = Math.min(window.limits.max, Math.ceil(window.size * GROWTH));
  if (size === window.size) return { ...window, before: undefined };
  return { ...window, size, before: window.size, baseRate: rate };
}
