// Errors before a request is on its way to a replica, in OpenAI's form: bad bodies, keys, unknown models.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { toOpenAiError } from "@pilotlight/openai";
import { logger } from "@pilotlight/telemetry";
import type { FastifyInstance } from "fastify";

const STATUS_TOO_LARGE = 413;
const STATUS_MEDIA_TYPE = 415;

/** Answers every error of these routes as the OpenAI API does. */
export function answerErrorsAsOpenAi(api: FastifyInstance): void {
  api.setErrorHandler((thrown, _request, reply) => {
    const { error, status } = describe(thrown);
    if (error.code === "internal") logger("http").error("request failed", { error });
    const answer = toOpenAiError(error);
    reply.headers(answer.headers).status(status ?? answer.status);
    void reply.send(answer.body);
  });
}

/** The error, and a status of HTTP's own that says more than the code's. */
function describe(thrown: unknown): { error: PlatformError; status: number | null } {
  const status = (thrown as { statusCode?: unknown }).statusCode;
  const cause = thrown;
  if (status === STATUS_TOO_LARGE) {
    const error = new PlatformError("invalidArgument", "the request body is too large", {
      remedy: "Send a smaller one, or raise BODY_BYTES_MAX of the gateway.",
      cause,
    });
    return { error, status };
  }
  if (status === STATUS_MEDIA_TYPE) {
    const error = new PlatformError("invalidArgument", "the request body must be JSON", {
      remedy: "Send the header 'content-type: application/json'.",
      cause,
    });
    return { error, status };
  }
  if (typeof status === "number" && status < 500 && !(thrown instanceof PlatformError)) {
    return { error: new PlatformError("invalidArgument", (thrown as Error).message, { cause }), status };
  }
  return { error: toPlatformError(thrown), status: null };
}
