// The routes that reach a model: read as much of the body as routing needs, find the model, hand over to the forwarder.
// Everything else in the body is the worker's, and passes through byte for byte.
import { PlatformError } from "@pilotlight/errors";
import {
  type Checked,
  checkChatCompletion,
  checkCompletion,
  checkEmbeddings,
  withoutExtension,
} from "@pilotlight/openai";
import { inSpan, withIncomingHeaders, withRequestId } from "@pilotlight/telemetry";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ApiKeys } from "../adapters/api-keys.ts";
import type { Endpoint } from "../domain/endpoint.ts";
import type { Fleet } from "../domain/fleet.ts";
import { ClientReply } from "../forward/client-reply.ts";
import { Exchange, type InferenceBody } from "../forward/exchange.ts";

/** Path, and the check of what this path takes. */
const ROUTES: Readonly<Record<string, (body: unknown) => Checked<unknown>>> = {
  "/v1/chat/completions": checkChatCompletion,
  "/v1/completions": checkCompletion,
  "/v1/embeddings": checkEmbeddings,
};

export type InferencePorts = {
  fleet: Fleet;
  keys: ApiKeys | null;
  clientStallTimeoutMs: number;
  /** Whether the routes are known, so that an unknown model is a mistake of the client. */
  knowsRoutes(): boolean;
  /** Works on a request until it is over. */
  serve(exchange: Exchange): Promise<void>;
};

/** Adds the routes; bodies arrive as bytes. */
export function addInferenceRoutes(api: FastifyInstance, ports: InferencePorts): void {
  api.removeAllContentTypeParsers();
  api.addContentTypeParser("application/json", { parseAs: "buffer" }, (_request, body, done) =>
    done(null, body),
  );
  for (const [path, check] of Object.entries(ROUTES))
    api.post(path, (request, reply) => serveInference(path, check, request, reply, ports));
}

async function serveInference(
  path: string,
  check: (body: unknown) => Checked<unknown>,
  request: FastifyRequest,
  reply: FastifyReply,
  ports: InferencePorts,
): Promise<void> {
  const acceptedAt = Date.now();
  const keyName = ports.keys?.nameOf(request.headers.authorization) ?? null;
  const bytes = request.body as Buffer;
  const parsed = parseBody(bytes);
  const endpoint = resolve(parsed.model, ports);
  // A request that nobody could answer neither waits nor wakes a model.
  if (endpoint.isCold && endpoint.spec?.engine?.kind.case === "embedded") {
    const checked = check(withoutInternals(parsed));
    if (checked.kind === "invalid") throw checked.error;
  }
  const isClean = !("pilotlight" in parsed);
  reply.hijack();
  const exchange = new Exchange({
    requestId: request.id,
    path,
    endpoint,
    body: isClean ? bytes : JSON.stringify(withoutInternals(parsed)),
    parsed,
    reply: new ClientReply(reply.raw, request.id, ports.clientStallTimeoutMs),
    acceptedAt,
    keyName,
  });
  // A body that arrived in pieces was read in the connection's context, not in the request's: enter it again.
  await withIncomingHeaders(request.headers, () =>
    withRequestId(request.id, () =>
      inSpan(`gateway ${path}`, { kind: "server" }, () => ports.serve(exchange)),
    ),
  );
}

/** Whatever a client puts into the platform's own field is not for the worker. */
const withoutInternals = (body: InferenceBody & { pilotlight?: unknown }) => withoutExtension(body);

function parseBody(bytes: Buffer | undefined): InferenceBody {
  let value: unknown;
  try {
    value = JSON.parse(bytes?.toString("utf8") ?? "");
  } catch (cause) {
    throw new PlatformError("invalidArgument", `the body is not JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  const body = value as InferenceBody;
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new PlatformError("invalidArgument", "the body must be a JSON object");
  if (typeof body.model !== "string" || body.model === "") {
    throw new PlatformError("invalidArgument", "model is missing", {
      field: "model",
      remedy: "Name one of the models of /v1/models.",
    });
  }
  if (body.stream !== undefined && body.stream !== null && typeof body.stream !== "boolean")
    throw new PlatformError("invalidArgument", "stream must be true or false", { field: "stream" });
  return body;
}

function resolve(model: string, ports: InferencePorts): Endpoint {
  const endpoint = ports.fleet.resolve(model);
  if (endpoint !== undefined) return endpoint;
  if (!ports.knowsRoutes()) {
    throw new PlatformError("unavailable", "the gateway has just started and does not know the models yet", {
      retryAfterMs: 1_000,
    });
  }
  const shown = model.length > 100 ? `${model.slice(0, 100)}…` : model;
  throw new PlatformError("notFound", `the model '${shown}' does not exist`, {
    field: "model",
    remedy: "See /v1/models for those that do.",
  });
}
