// HTTP doors by fastify: request ID and trace on every request, errors as JSON with code, message and remedy, limits on
// body and time, sockets handed over by a supervisor (systemd's protocol) so that a restart refuses no connection.
import { randomUUID } from "node:crypto";
import type { Server } from "node:http";
import { ERROR_CODES, PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  isRequestId,
  logger,
  REQUEST_ID_HEADER,
  withIncomingHeaders,
  withRequestId,
} from "@pilotlight/telemetry";
import { type FastifyInstance, type FastifyReply, fastify } from "fastify";
import type * as z from "zod";

export type HttpDoorOptions = {
  bodyBytesMax: number;
  /** How long a client may take to send its request. */
  requestTimeoutMs: number;
  /** The body of an error answer; the platform's own form by default. */
  errorBody?: (error: PlatformError) => unknown;
};

/** A fastify instance with the platform's conventions. */
export function createHttpDoor(options: HttpDoorOptions): FastifyInstance {
  const log = logger("http");
  const app = fastify({
    logger: false,
    bodyLimit: options.bodyBytesMax,
    requestTimeout: options.requestTimeoutMs,
    forceCloseConnections: "idle",
    // A request that still comes on an open connection while the service stops is answered like any other.
    return503OnClosing: false,
    genReqId: (request) => {
      const given = request.headers[REQUEST_ID_HEADER];
      return isRequestId(given) ? given : `req-${randomUUID()}`;
    },
  });
  app.addHook("onRequest", (request, reply, done) => {
    reply.header(REQUEST_ID_HEADER, request.id);
    withIncomingHeaders(request.headers, () => withRequestId(request.id, done));
  });
  app.setErrorHandler((thrown, _request, reply) => {
    const error = fromFastify(thrown);
    if (error.code === "internal") log.error("request failed", { error });
    sendError(reply, error, options.errorBody);
  });
  app.setNotFoundHandler((request, reply) =>
    sendError(
      reply,
      new PlatformError("notFound", `there is no ${request.method} ${request.url.split("?")[0]}`, {
        remedy: "Check the path and the method.",
      }),
      options.errorBody,
    ),
  );
  return app;
}

function sendError(reply: FastifyReply, error: PlatformError, body: HttpDoorOptions["errorBody"]): void {
  if (error.retryAfterMs !== undefined)
    reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
  void reply.status(ERROR_CODES[error.code].http).send(body?.(error) ?? { error });
}

function fromFastify(thrown: unknown): PlatformError {
  const status = (thrown as { statusCode?: unknown }).statusCode;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  if (thrown instanceof PlatformError || typeof status !== "number" || status >= 500)
    return toPlatformError(thrown);
  if (status === 413)
    return new PlatformError("resourceExhausted", message, { remedy: "Send a smaller body.", cause: thrown });
  return new PlatformError("invalidArgument", message, { cause: thrown });
}

/** Checks a part of a request against a schema. Throws `invalidArgument` naming the first wrong field. */
export function checked<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = issue?.path.map(String).join(".") ?? "";
  throw new PlatformError(
    "invalidArgument",
    `${what}${path === "" ? "" : ` field '${path}'`}: ${issue?.message ?? "is not valid"}`,
    {
      ...(path === "" ? {} : { field: path }),
    },
  );
}

/**
 * Listens on a port, or on the socket that a supervisor opened and handed over as file descriptor 3 under this name
 * (`LISTEN_FDS`, `LISTEN_FDNAMES`: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html).
 */
export async function listen(
  app: FastifyInstance,
  address: { name: string; host: string; port: number },
): Promise<string> {
  const handed = handedOverSocket(address.name, process.env);
  await app.ready();
  const server = app.server as Server;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        error.code === "EADDRINUSE"
          ? new PlatformError("alreadyExists", `${address.name}: ${address.host}:${address.port} is taken`, {
              remedy: "Stop the other program, or configure another port.",
              cause: error,
            })
          : error,
      ),
    );
    if (handed === undefined) server.listen(address.port, address.host, resolve);
    else server.listen({ fd: handed }, resolve);
  });
  const bound = server.address();
  if (bound === null || typeof bound === "string") return `http://${address.host}:${address.port}`;
  return `http://${bound.family === "IPv6" ? `[${bound.address}]` : bound.address}:${bound.port}`;
}

const FIRST_HANDED_OVER_FD = 3;

function handedOverSocket(name: string, environment: NodeJS.ProcessEnv): number | undefined {
  const names = (environment.LISTEN_FDNAMES ?? "").split(":");
  const index = names.indexOf(name);
  return index >= 0 && index < Number(environment.LISTEN_FDS ?? 0) ? FIRST_HANDED_OVER_FD + index : undefined;
}
