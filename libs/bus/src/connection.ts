// The connection to NATS: kept for the life of the process, reconnecting for ever. What is published while the server is
// away waits in the outbox or is retried; samples are dropped.
import { type JetStreamClient, type JetStreamManager, jetstream, jetstreamManager } from "@nats-io/jetstream";
import type { NatsConnection } from "@nats-io/nats-core";
import { connect } from "@nats-io/transport-node";
import { PlatformError, type RetryPolicy, retry } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import { ensureStreams } from "./streams.ts";

/** The oldest server with per-message TTL and atomic batches. */
const SERVER_VERSION_MIN = [2, 12] as const;

export type BusOptions = {
  url: string;
  /** The service's name: durable consumers and CloudEvents sources are named after it. */
  service: string;
  /** How long to wait for the server at start. */
  connectTimeoutMs: number;
  /** Copies of each stream; 3 on a NATS cluster. */
  streamReplicas: number;
  /** Credentials file of NATS (`.creds`); empty: none. */
  credentialsFile?: string;
};

export type Bus = {
  readonly service: string;
  readonly connection: NatsConnection;
  readonly jetstream: JetStreamClient;
  readonly manager: JetStreamManager;
  /** undefined while connected, otherwise what is wrong. For readiness. */
  check(): string | undefined;
  close(): Promise<void>;
};

/** Connects, asserts the server's version and makes sure that the streams exist. */
export async function connectBus(options: BusOptions): Promise<Bus> {
  const log = logger("bus");
  const patience: RetryPolicy = {
    attemptsMax: Math.max(1, Math.ceil(options.connectTimeoutMs / 500)),
    initialDelayMs: 200,
    delayMsMax: 500,
  };
  const waiting = {
    onRetry: (error: PlatformError) => log.warn("waiting for NATS", { error }),
    shouldRetry: () => true,
  };
  const connection = await retry(() => open(options), patience, waiting).catch((error: PlatformError) => {
    throw new PlatformError("unavailable", `NATS does not answer: ${error.message}`, {
      remedy: "Start nats-server, or correct NATS_URL.",
      cause: error,
    });
  });
  try {
    assertVersion(connection.info?.version ?? "0.0.0");
    const manager = await retry(() => jetstreamManager(connection), patience, waiting);
    await retry(() => ensureStreams(manager, options.streamReplicas), patience, waiting);
    let connected = true;
    void watchStatus(connection, (now) => {
      connected = now;
    });
    return {
      service: options.service,
      connection,
      jetstream: jetstream(connection),
      manager,
      check: () => (connected ? undefined : "not connected to NATS"),
      close: () => connection.drain(),
    };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

async function open(options: BusOptions): Promise<NatsConnection> {
  const authenticator =
    options.credentialsFile === undefined || options.credentialsFile === ""
      ? {}
      : { authenticator: await credentials(options.credentialsFile) };
  return connect({
    servers: options.url,
    name: options.service,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    reconnectJitter: 200,
    pingInterval: 20_000,
    ...authenticator,
  });
}

async function credentials(file: string) {
  const { credsAuthenticator } = await import("@nats-io/nats-core");
  const { readFile } = await import("node:fs/promises");
  return credsAuthenticator(new Uint8Array(await readFile(file)));
}

function assertVersion(version: string): void {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > SERVER_VERSION_MIN[0] || (major === SERVER_VERSION_MIN[0] && minor >= SERVER_VERSION_MIN[1]))
    return;
  throw new PlatformError(
    "unsupported",
    `NATS server ${version} is too old: it drops message TTLs silently`,
    {
      remedy: `Run nats-server ${SERVER_VERSION_MIN.join(".")} or newer.`,
    },
  );
}

async function watchStatus(connection: NatsConnection, report: (connected: boolean) => void): Promise<void> {
  const log = logger("bus");
  for await (const status of connection.status()) {
    if (status.type === "disconnect") {
      report(false);
      log.warn("disconnected from NATS; reconnecting");
    } else if (status.type === "reconnect") {
      report(true);
      log.info("connected to NATS again");
    }
  }
}
