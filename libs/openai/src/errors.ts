// The platform's errors as the OpenAI API shows them (https://platform.openai.com/docs/guides/error-codes), so that
// clients' own error classes and retries work: the official one retries 408, 409, 429 and 5xx, and honours
// `retry-after-ms` before `retry-after`.
import { ERROR_CODES, type ErrorCode, type PlatformError } from "@pilotlight/errors";
import type { ErrorBody } from "./responses.ts";

export type OpenAiError = {
  status: number;
  headers: Record<string, string>;
  body: ErrorBody;
};

const TYPES: Record<ErrorCode, string> = {
  invalidArgument: "invalid_request_error",
  unauthenticated: "authentication_error",
  permissionDenied: "permission_error",
  notFound: "invalid_request_error",
  alreadyExists: "invalid_request_error",
  conflict: "invalid_request_error",
  preconditionFailed: "invalid_request_error",
  resourceExhausted: "rate_limit_error",
  cancelled: "invalid_request_error",
  internal: "server_error",
  corrupt: "server_error",
  unsupported: "invalid_request_error",
  unavailable: "server_error",
  deadlineExceeded: "server_error",
};

/** Status, headers and body for an error. The cause stays inside. */
export function toOpenAiError(error: PlatformError): OpenAiError {
  const headers: Record<string, string> = {};
  if (error.retryAfterMs !== undefined) {
    headers["retry-after-ms"] = String(Math.ceil(error.retryAfterMs));
    headers["retry-after"] = String(Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
  }
  // The official client would repeat what cannot succeed; this header tells it not to, whatever the status.
  if (!error.retryable) headers["x-should-retry"] = "false";
  const message = error.remedy === undefined ? error.message : `${error.message}. ${error.remedy}`;
  return {
    status: ERROR_CODES[error.code].http,
    headers,
    body: {
      error: {
        message,
        type: TYPES[error.code],
        param: error.field ?? null,
        code: error.code.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      },
    },
  };
}
