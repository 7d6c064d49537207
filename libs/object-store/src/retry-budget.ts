// A budget of retries shared by all requests of a store: when a far side is down, every caller retrying on its own
// multiplies the load. Successes refill it slowly, so a few percent of failures are always retried and an outage
// is not. After the token bucket of gRPC's retry throttling (gRFC A6).
import { type PlatformError, type RetryPolicy, retry } from "@pilotlight/errors";
import { throwIfAborted } from "./limits.ts";

const TOKENS_MAX = 20;
const REFILL_PER_SUCCESS = 0.2;

export type RetryBudget = {
  /** Runs `operation` under the policy, as long as the budget lasts. `attempt` starts at 1. */
  run<T>(operation: (attempt: number) => Promise<T>, signal: AbortSignal | undefined): Promise<T>;
  /** Takes one retry out of the budget; false when it is used up. */
  take(): boolean;
};

export function createRetryBudget(policy: RetryPolicy): RetryBudget {
  let tokens = TOKENS_MAX;
  const take = (): boolean => {
    if (tokens < 1) return false;
    tokens -= 1;
    return true;
  };
  return {
    take,
    async run(operation, signal) {
      const result = await retry(operation, policy, {
        ...(signal === undefined ? {} : { signal }),
        shouldRetry: (error: PlatformError) => error.retryable && take(),
      }).catch((error: unknown) => {
        // An aborted request fails as a broken connection; what counts is why.
        throwIfAborted(signal);
        throw error;
      });
      tokens = Math.min(TOKENS_MAX, tokens + REFILL_PER_SUCCESS);
      return result;
    },
  };
}
