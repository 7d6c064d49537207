// The one retry loop: exponential back-off with full jitter, bounded in attempts, cancellable.
// Full jitter after https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
import { setTimeout as sleepTimer } from "node:timers/promises";
import { type PlatformError, toPlatformError } from "./platform-error.ts";

export type RetryPolicy = {
  /** Attempts in all, the first included. */
  attemptsMax: number;
  /** Upper bound of the first delay; doubles each time. */
  initialDelayMs: number;
  delayMsMax: number;
};

export type RetryOptions = {
  signal?: AbortSignal;
  /** Which failures are worth another attempt. Default: the error's own `retryable`. */
  shouldRetry?: (error: PlatformError) => boolean;
  /** Called before each wait: for a log line or a metric. */
  onRetry?: (error: PlatformError, attempt: number, delayMs: number) => void;
  /** For tests: a seeded generator in [0, 1) and a clock of one's own. */
  random?: () => number;
  sleep?: (ms: number, signal: AbortSignal | undefined) => Promise<unknown>;
};

/** The wait before attempt `attempt + 1`, where the first attempt is 1. `random` in [0, 1). */
export function backoffMs(policy: RetryPolicy, attempt: number, random: number): number {
  const ceiling = Math.min(policy.delayMsMax, policy.initialDelayMs * 2 ** (attempt - 1));
  return Math.round(ceiling * (0.5 + 0.5 * random));
}

/**
 * Runs `operation` until it succeeds, the policy is used up, or the failure is not worth retrying.
 * An error's `retryAfterMs` lengthens the wait. Throws the last error as a PlatformError.
 */
export async function retry<T>(
  operation: (attempt: number) => Promise<T>,
  policy: RetryPolicy,
  options: RetryOptions = {},
): Promise<T> {
  const random = options.random ?? Math.random;
  const sleep = options.sleep ?? ((ms, signal) => sleepTimer(ms, undefined, signal ? { signal } : {}));
  const shouldRetry = options.shouldRetry ?? ((error) => error.retryable);
  for (let attempt = 1; ; attempt++) {
    try {
      return await operation(attempt);
    } catch (thrown) {
      const error = toPlatformError(thrown);
      if (attempt >= policy.attemptsMax || options.signal?.aborted || !shouldRetry(error)) throw error;
      const delayMs = Math.max(backoffMs(policy, attempt, random()), error.retryAfterMs ?? 0);
      options.onRetry?.(error, attempt, delayMs);
      await sleep(delayMs, options.signal);
    }
  }
}
