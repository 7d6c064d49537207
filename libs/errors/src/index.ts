export {
  ERROR_CODES,
  type ErrorCode,
  PlatformError,
  type PlatformErrorOptions,
  toPlatformError,
} from "./platform-error.ts";
export { backoffMs, type RetryOptions, type RetryPolicy, retry } from "./retry.ts";
