// The admin door of every service: /healthz (the process answers), /readyz (every part works, else 503 with what
// does not), /metrics. Plain node:http: three fixed routes that must answer even when the process is in trouble.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { PlatformError } from "@pilotlight/errors";
import type { HealthCheck } from "./lifecycle.ts";

export type AdminOptions = {
  host: string;
  port: number;
  checks: ReadonlyMap<string, HealthCheck>;
  metrics: () => Promise<string>;
};

/** A check that takes longer counts as failed, so that a probe is never left hanging. */
const CHECK_TIMEOUT_MS = 2_000;

/** Starts the admin door. */
export async function startAdmin(
  options: AdminOptions,
): Promise<{ url: string; close: () => Promise<void> }> {
  const server = createServer((request, response) => {
    const reply = (status: number, body: string, type = "application/json") =>
      response
        .writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) })
        .end(body);
    switch (request.url) {
      case "/healthz":
        return void reply(200, '{"status":"ok"}');
      case "/readyz":
        return void readiness(options.checks).then((failing) =>
          reply(failing.length === 0 ? 200 : 503, JSON.stringify({ ready: failing.length === 0, failing })),
        );
      case "/metrics":
        return void options.metrics().then(
          (text) => reply(200, text, "text/plain; version=0.0.4"),
          (error: Error) => reply(500, JSON.stringify({ message: error.message })),
        );
      default:
        return void reply(404, '{"message":"this door has /healthz, /readyz and /metrics"}');
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        error.code === "EADDRINUSE"
          ? new PlatformError("alreadyExists", `admin port ${options.host}:${options.port} is taken`, {
              field: "adminPort",
              remedy: "Stop the other program, or set ADMIN_PORT to another port (0 takes any free one).",
              cause: error,
            })
          : error,
      ),
    );
    server.listen(options.port, options.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function readiness(checks: ReadonlyMap<string, HealthCheck>): Promise<{ part: string; why: string }[]> {
  const results = await Promise.all(
    [...checks].map(async ([part, check]) => {
      let timer: NodeJS.Timeout | undefined;
      const timeout = new Promise<string>((resolve) => {
        timer = setTimeout(resolve, CHECK_TIMEOUT_MS, `no answer within ${CHECK_TIMEOUT_MS} ms`);
      });
      try {
        return { part, why: await Promise.race([check(), timeout]) };
      } catch (error) {
        return { part, why: error instanceof Error ? error.message : String(error) };
      } finally {
        clearTimeout(timer);
      }
    }),
  );
  return results.filter((result): result is { part: string; why: string } => result.why !== undefined);
}
