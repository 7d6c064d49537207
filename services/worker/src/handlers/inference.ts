// The replica's OpenAI routes: count the request, hand it to the engine, write its answer at the reader's pace.
//
//   H1. A draining replica takes no request; it says so in a header that the gateway understands (I2).
//   H2. An error before the first byte has a status; one after it is the stream's last event (I1).
import { randomBytes } from "node:crypto";
import type { ServerResponse } from "node:http";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { ANSWER_HEADER, DRAINING_HEADER, encodeSse, toOpenAiError } from "@pilotlight/openai";
import { inSpan, logger, REQUEST_ID_HEADER, withIncomingHeaders, withRequestId } from "@pilotlight/telemetry";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Life } from "../domain/life.ts";
import type { OpenRequests } from "../domain/open-requests.ts";
import type { Answer, EngineCall, ReplicaEngine } from "../engine.ts";

export type InferencePorts = {
  engine: ReplicaEngine;
  life: Life;
  open: OpenRequests;
  clientStallTimeoutMs: number;
};

type Ask = (engine: ReplicaEngine, call: EngineCall) => Promise<Answer>;

const ROUTES: Readonly<Record<string, Ask>> = {
  "/v1/chat/completions": (engine, call) => engine.chat(call),
  "/v1/completions": (engine, call) => engine.complete(call),
  "/v1/embeddings": (engine, call) => engine.embed(call),
};

const ANSWER_ID = /^[A-Za-z0-9]{8,64}$/;
const STARTING_RETRY_MS = 1_000;

/** Adds the routes. */
export function addInferenceRoutes(app: FastifyInstance, ports: InferencePorts): void {
  for (const [path, ask] of Object.entries(ROUTES)) {
    app.post(path, (request, reply) =>
      withIncomingHeaders(request.headers, () =>
        withRequestId(request.id, () =>
          inSpan(`worker ${path}`, { kind: "server" }, () => serve(path, ask, request, reply, ports)),
        ),
      ),
    );
  }
}

async function serve(
  path: string,
  ask: Ask,
  request: FastifyRequest,
  reply: FastifyReply,
  ports: InferencePorts,
): Promise<void> {
  const refusal = refusalOf(ports.life);
  if (refusal !== null) {
    if (ports.life.isDraining) reply.header(DRAINING_HEADER, "1");
    sendError(reply, refusal);
    return;
  }
  const controller = new AbortController();
  const end = ports.open.begin(controller);
  const response = reply.raw;
  // Over when the answer has left, not when it was written: a drain waits for the last byte.
  response.once("close", () => {
    end();
    if (!response.writableFinished) controller.abort(new PlatformError("cancelled", "the reader went away"));
  });
  const startedAt = Date.now();
  let status = 499;
  try {
    const answer = await ask(ports.engine, callOf(request, controller.signal));
    status = answer.kind === "whole" ? answer.status : 200;
    if (answer.kind === "whole") reply.status(status).type(answer.contentType).send(answer.body);
    else await stream(answer, request.id, reply, ports.clientStallTimeoutMs);
  } catch (thrown) {
    const error = reasonOf(thrown, controller.signal);
    if (!response.destroyed && !response.headersSent) status = sendError(reply, error);
    else if (!response.destroyed) response.end(encodeSse(toOpenAiError(error).body));
    if (error.code === "internal") logger("request").error("request failed", { error });
  }
  logger("request").info("request", { path, status, durationMs: Date.now() - startedAt });
}

/** Why no request is taken; null when they are. */
function refusalOf(life: Life): PlatformError | null {
  if (life.takesRequests) return null;
  if (life.isDraining)
    return new PlatformError("unavailable", "this replica is draining", { retryAfterMs: 1 });
  return new PlatformError("unavailable", "this replica is still starting", {
    retryAfterMs: STARTING_RETRY_MS,
  });
}

function callOf(request: FastifyRequest, signal: AbortSignal): EngineCall {
  const { body } = request;
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new PlatformError("invalidArgument", "the body must be a JSON object");
  const given = request.headers[ANSWER_HEADER];
  const fromGateway = typeof given === "string" && ANSWER_ID.test(given);
  return {
    requestId: request.id,
    answerId: fromGateway ? given : randomBytes(12).toString("hex"),
    wantsTokens: fromGateway,
    body: body as Record<string, unknown>,
    signal,
  };
}

/** An abort's own reason says more than what the engine made of it. */
const reasonOf = (thrown: unknown, signal: AbortSignal): PlatformError =>
  toPlatformError(signal.aborted ? signal.reason : thrown);

function sendError(reply: FastifyReply, error: PlatformError): number {
  const { status, headers, body } = toOpenAiError(error);
  reply.headers(headers).status(status).send(body);
  return status;
}

/** Writes a stream; its head goes out with its first part. */
async function stream(
  answer: Extract<Answer, { kind: "stream" }>,
  requestId: string,
  reply: FastifyReply,
  stallTimeoutMs: number,
): Promise<void> {
  const { parts, contentType } = answer;
  let step = await parts.next();
  const response = reply.raw;
  reply.hijack();
  response.writeHead(200, {
    "content-type": contentType,
    "cache-control": "no-cache",
    [REQUEST_ID_HEADER]: requestId,
  });
  try {
    for (; step.done !== true; step = await parts.next()) {
      if (response.destroyed) return;
      if (!response.write(step.value)) await drained(response, stallTimeoutMs);
    }
    response.end();
  } finally {
    await parts.return?.();
  }
}

function drained(response: ServerResponse, stallTimeoutMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => response.destroy(), stallTimeoutMs);
    const done = () => {
      clearTimeout(timer);
      response.off("drain", done).off("close", done);
      resolve();
    };
    response.on("drain", done).on("close", done);
  });
}
