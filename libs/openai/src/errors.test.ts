import { ERROR_CODES, type ErrorCode, PlatformError } from "@pilotlight/errors";
import { APIError, RateLimitError } from "openai";
import { describe, expect, test } from "vitest";
import { errorBody, toOpenAiError } from "./index.ts";

describe("toOpenAiError", () => {
  test.each(Object.keys(ERROR_CODES) as ErrorCode[])("%s has a body of the API's shape", (code) => {
    const { body, status } = toOpenAiError(new PlatformError(code, "text", { field: "model" }));
    expect(errorBody.parse(body).error.param).toBe("model");
    expect(status).toBe(ERROR_CODES[code].http);
  });

  test("a shed request tells the client when to come back, in both headers", () => {
    const error = new PlatformError("resourceExhausted", "queue full", { retryAfterMs: 1234.2 });
    expect(toOpenAiError(error).headers).toEqual({ "retry-after-ms": "1235", "retry-after": "2" });
  });

  test("what cannot succeed is not repeated by the client", () => {
    expect(toOpenAiError(new PlatformError("internal", "bug")).headers).toEqual({
      "x-should-retry": "false",
    });
  });

  test("the cause stays inside, the remedy is told", () => {
    const { body } = toOpenAiError(
      new PlatformError("notFound", "no model x", { remedy: "See /v1/models.", cause: new Error("secret") }),
    );
    expect(body.error.message).toBe("no model x. See /v1/models.");
    expect(JSON.stringify(body)).not.toContain("secret");
  });

  test("the official client turns it into its own error class", () => {
    const { status, headers, body } = toOpenAiError(new PlatformError("resourceExhausted", "queue full"));
    const error = APIError.generate(status, body, undefined, new Headers(headers));
    expect(error).toBeInstanceOf(RateLimitError);
    expect(error).toMatchObject({ code: "resource_exhausted", type: "rate_limit_error", param: null });
  });
});
