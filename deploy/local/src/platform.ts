// The platform on one machine: real servers, then every service as a process of its own, wired by environment.
import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import {
  cacheDir,
  freePort,
  type ServerProcess,
  startNatsServer,
  startPostgresServer,
} from "@pilotlight/servers";
import { mountHugeMemory, unmountHugeMemory } from "@pilotlight/weights/huge-memory";
import { type Bucket, startBucket } from "./bucket.ts";
import { serviceMain, serviceNames } from "./checkout.ts";
import { holdFolder } from "./hold-folder.ts";
import { type KeptServer, keepServer } from "./kept-server.ts";
import { type Ports, pickPorts } from "./ports.ts";
import { endLeftovers, type ProcessSpec, Supervisor, type SupervisorOptions } from "./supervisor.ts";

/**
 * What the streams may reserve, whatever the disk has free: on one machine they never grow near their limits. Twice what they
 * need and more, because services that start together reserve a stream twice for a moment.
 */
const NATS_FILE_STORE_BYTES_MAX = 10 * 1024 ** 3;

export type PlatformOptions = {
  /** Everything that is kept between starts. */
  stateDir: string;
  /** The usual ports where they are free, or any free ones. */
  usualPorts: boolean;
  /** A plain directory, an S3 server started here, or a bucket of your own. */
  bucket: { kind: "directory" } | { kind: "s3" } | { kind: "uri"; uri: string };
  /** Run bundles (fast) or sources (for development). */
  from: "bundle" | "sources";
  /** Image of the platform's own worker, for `pilotlight://worker`. */
  workerImage: string;
  /** Virtual accelerators of this node; fractions of them are what CPU replicas take. */
  accelerators: number;
  logLevel: "debug" | "info" | "warn" | "error";
  /** Without the services that stand on every node: nodes of one's own join by NATS. Default: this machine is a node. */
  withoutNode?: boolean;
  /** Servers that run already; started here where absent. */
  natsUrl?: string;
  postgresUrl?: string;
  onEvent?: SupervisorOptions["onEvent"];
  onMovedPort?: (door: string, from: number, to: number) => void;
};

export type Endpoints = {
  gatewayUrl: string;
  controlUrl: string;
  natsUrl: string;
  bucketUri: string;
  /** For node agents. */
  imageConverterAddress: string;
};

export type Platform = {
  readonly endpoints: Endpoints;
  readonly supervisor: Supervisor;
  readonly bucket: Bucket;
  readonly logDir: string;
  /** The servers that were started here, for tests that interrupt them. */
  readonly servers: { nats: KeptServer | undefined; postgres: KeptServer | undefined };
  stop(): Promise<void>;
};

const SERVER_CHECK_INTERVAL_MS = 5_000;
const SERVER_RESTART_DELAY_MS = 500;

/** First who takes requests, then who starts replicas, then the rest: nothing is started or lost while stopping. */
const STOP_ORDER = [["gateway"], ["rollout", "autoscaler"], ["node-agent"]];

const NODE_SERVICES: ReadonlySet<string> = new Set(["node-agent", "weight-streamer"]);

/** Starts everything and returns when all of it is ready. Throws `alreadyExists` when a platform runs on this folder. */
export async function startPlatform(options: PlatformOptions): Promise<Platform> {
  const { stateDir } = options;
  const logDir = join(stateDir, "logs");
  const pidFile = join(stateDir, "processes.json");
  await mkdir(logDir, { recursive: true });
  const hold = await holdFolder(stateDir);
  try {
    return await startHeld(options, { logDir, pidFile, release: hold.release });
  } catch (error) {
    hold.release();
    throw error;
  }
}

async function startHeld(
  options: PlatformOptions,
  { logDir, pidFile, release }: { logDir: string; pidFile: string; release: () => void },
): Promise<Platform> {
  const { stateDir } = options;
  await endLeftovers(pidFile, 10_000);
  const { ports, moved } = await pickPorts(options.usualPorts);
  for (const { door, from, to } of moved) options.onMovedPort?.(door, from, to);

  const kept = (name: string, start: () => Promise<ServerProcess & { url: string }>) =>
    keepServer({
      start,
      restartDelayMs: SERVER_RESTART_DELAY_MS,
      checkIntervalMs: SERVER_CHECK_INTERVAL_MS,
      onRestart: () => options.onEvent?.({ kind: "restarting", name, detail: "the server ended" }),
    });
  const natsOptions = {
    stateDir: join(stateDir, "nats"),
    port: ports.nats,
    fileStoreBytesMax: NATS_FILE_STORE_BYTES_MAX,
  };
  const postgresOptions = { stateDir: join(stateDir, "postgres"), port: ports.postgres, durable: true };
  const [nats, postgres, bucket] = await Promise.all([
    options.natsUrl === undefined ? kept("nats", () => startNatsServer(natsOptions)) : undefined,
    options.postgresUrl === undefined
      ? kept("postgres", () => startPostgresServer(postgresOptions))
      : undefined,
    startBucket(options.bucket, { stateDir: join(stateDir, "bucket"), port: ports.s3, logDir }),
  ]);
  const endpoints: Endpoints = {
    gatewayUrl: `http://127.0.0.1:${ports.gateway}`,
    controlUrl: `http://127.0.0.1:${ports.control}`,
    natsUrl: options.natsUrl ?? nats?.url ?? "",
    bucketUri: bucket.uri,
    imageConverterAddress: `127.0.0.1:${ports.imageConverter}`,
  };
  // Before the processes: workers see the folder as it is when they start.
  const releaseMemory = options.withoutNode === true ? () => {} : takeSharedMemory(stateDir);
  const stopServers = async () => {
    await Promise.all([nats?.stop(), postgres?.stop(), bucket.stop()]);
    releaseMemory();
  };
  const supervisor = new Supervisor({
    logDir,
    pidFile,
    readyTimeoutMs: 60_000,
    stopTimeoutMs: 30_000,
    restart: { initialDelayMs: 100, delayMsMax: 5_000, stableMs: 30_000 },
    ...(options.onEvent === undefined ? {} : { onEvent: options.onEvent }),
  });
  try {
    const shared = sharedEnvironment(
      options,
      ports,
      endpoints,
      options.postgresUrl ?? postgres?.url ?? "",
      bucket.environment,
    );
    for (const name of serviceNames()) {
      if (name === "worker") continue; // the node agent starts these, from an image
      if (options.withoutNode === true && NODE_SERVICES.has(name)) continue;
      supervisor.start(await processSpec(name, options, ports, shared));
    }
    await supervisor.ready();
  } catch (error) {
    await supervisor.stop(STOP_ORDER);
    await stopServers();
    throw error;
  }
  await writeFile(join(stateDir, "endpoints.json"), `${JSON.stringify(endpoints, null, 2)}\n`);
  return {
    endpoints,
    supervisor,
    bucket,
    logDir,
    servers: { nats, postgres },
    async stop() {
      await supervisor.stop(STOP_ORDER);
      await stopServers();
      release();
    },
  };
}

/** What every service gets; each takes from it what its config names. */
function sharedEnvironment(
  options: PlatformOptions,
  ports: Ports,
  endpoints: Endpoints,
  postgresUrl: string,
  bucketEnvironment: Record<string, string>,
): Record<string, string> {
  const at = (port: number) => `127.0.0.1:${port}`;
  return {
    PATH: process.env.PATH ?? "",
    HOME: process.env.HOME ?? "",
    NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? cacheDir("node-compile"),
    LOG_LEVEL: options.logLevel,
    NATS_URL: endpoints.natsUrl,
    POSTGRES_URL: postgresUrl,
    BUCKET_URI: endpoints.bucketUri,
    NODE_ID: nodeId(),
    IMAGE_CONVERTER_ADDRESS: endpoints.imageConverterAddress,
    WEIGHT_STREAMER_ADDRESS: at(ports.weightStreamer),
    AUTOSCALER_ADDRESS: at(ports.autoscaler),
    ROLLOUT_ADDRESS: at(ports.rollout),
    LOGS_ADDRESS: at(ports.logs),
    NODE_AGENT_ADDRESS: at(ports.nodeAgent),
    ...bucketEnvironment,
  };
}

/** The machine's name as a subject token. */
const nodeId = () =>
  hostname()
    .replace(/[^A-Za-z0-9_-]/g, "-")
    .slice(0, 60) || "node";

async function processSpec(
  name: string,
  options: PlatformOptions,
  ports: Ports,
  shared: Record<string, string>,
): Promise<ProcessSpec> {
  const adminPort = await freePort();
  const stateDir = join(options.stateDir, name);
  await mkdir(stateDir, { recursive: true });
  const grpcPort = {
    "image-converter": ports.imageConverter,
    "weight-streamer": ports.weightStreamer,
    autoscaler: ports.autoscaler,
    rollout: ports.rollout,
    logs: ports.logs,
    "node-agent": ports.nodeAgent,
  }[name];
  const httpPort = { gateway: ports.gateway, control: ports.control }[name];
  return {
    name,
    command: process.execPath,
    // Small young generations: these processes make little garbage and are many. No source maps: the first error's stack
    // would parse the bundle's map, which stays in memory (64 MB); names are kept in bundles.
    args: ["--max-semi-space-size=1", "--v8-pool-size=1", serviceMain(name, options.from)],
    env: {
      ...shared,
      ADMIN_PORT: String(adminPort),
      STATE_DIR: stateDir,
      MALLOC_ARENA_MAX: "1",
      ...(grpcPort === undefined ? {} : { GRPC_PORT: String(grpcPort) }),
      ...(httpPort === undefined ? {} : { HTTP_PORT: String(httpPort) }),
      ...(name === "weight-streamer" ? { SEGMENT_DIR: sharedMemoryDir(options.stateDir) } : {}),
      ...(name === "control" || name === "image-converter" ? { WORKER_IMAGE: options.workerImage } : {}),
      ...(name === "node-agent" ? nodeAgentEnvironment(options) : {}),
    },
    ...(httpPort === undefined ? {} : { sockets: [{ name, host: "127.0.0.1", port: httpPort }] }),
    readyUrl: `http://127.0.0.1:${adminPort}/readyz`,
  };
}

/** Shared memory of this platform alone: several may run on one machine. */
const sharedMemoryDir = (stateDir: string): string =>
  `/dev/shm/pilotlight-${createHash("sha256").update(stateDir).digest("hex").slice(0, 12)}`;

/** With huge pages where that can be had; what to do when the platform has ended. */
function takeSharedMemory(stateDir: string): () => void {
  const directory = sharedMemoryDir(stateDir);
  try {
    if (process.geteuid?.() === 0) mountHugeMemory(directory);
  } catch {
    // The folder as it is does too: loads only cost more processor time.
  }
  return () => unmountHugeMemory(directory);
}

const nodeAgentEnvironment = (options: PlatformOptions): Record<string, string> => ({
  WORKER_IMAGE: options.workerImage,
  ACCELERATORS: String(options.accelerators),
  SEGMENT_DIRS: [
    sharedMemoryDir(options.stateDir),
    join(options.stateDir, "weight-streamer", "segments"),
  ].join(","),
  LOG_GLOBS: join(options.stateDir, "logs", "*.log"),
  STOP_REPLICAS_ON_EXIT: "true",
  // The converter is on this machine too: a pull beside it would only take its processors.
  PULL_NEW_IMAGES: "false",
});
