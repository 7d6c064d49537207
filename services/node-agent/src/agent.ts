// The agent's parts and how they are wired. Apart from `main.ts` so that tests run the same agent on images of their own.
import { existsSync, readdirSync } from "node:fs";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { connectServiceBus, consumeIdempotent, publish } from "@pilotlight/bus";
import {
  type Backend,
  detectCapacity,
  type ImageRuntime,
  type Launch,
  localBackend,
} from "@pilotlight/compute";
import {
  EVENTS,
  ImageConverterService,
  keyToken,
  NodeAgentService,
  ReplicaAssignmentSchema,
  toJson,
} from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  grpcClient,
  grpcService,
  type ServiceConfig,
  type ServiceContext,
  serveGrpc,
} from "@pilotlight/service";
import { ensureImage } from "./adapters/image-converter.ts";
import { buryLostReplicas } from "./adapters/lost-replicas.ts";
import { startNodeReporter } from "./adapters/node-reporter.ts";
import { StatusPublisher } from "./adapters/status-publisher.ts";
import type { config } from "./config.ts";
import { devicesOf, environmentOf, imageReferenceOf, type LaunchSettings } from "./domain/launch.ts";
import type { Replica } from "./domain/replica.ts";
import type { NodeCapacity } from "./domain/resources.ts";
import { statusOf } from "./domain/status.ts";
import { attachWorker } from "./handlers/attach-worker.ts";
import { onReplicaWanted } from "./handlers/replica-wanted.ts";
import { lastLinesOf } from "./last-lines.ts";
import { openPositions } from "./logs/positions.ts";
import { globSources, replicaSources, STDERR_FILE, STDOUT_FILE } from "./logs/sources.ts";
import { type LogSource, LogTailer } from "./logs/tailer.ts";
import { Replicas } from "./replicas.ts";
import { openReplicaFiles } from "./store/replica-files.ts";

export type AgentConfig = ServiceConfig<(typeof config)["fields"]>;

const ASSIGNMENT_FILE = "assignment.json";
/** Slots of a machine without accelerators. */
const CPU_SLOTS = 4;
/** As the weight streamer makes them. */
const SEGMENT_DIR_MODE = 0o750;
const CALL_TIMEOUT_MS = 10_000;
const HOUSEKEEPING_INTERVAL_MS = 60_000;
/** How often the names of log files are looked up anew. */
const GLOB_INTERVAL_MS = 1_000;
const CLOSE_TIMEOUT_MS = 2_000;
/** Orders are only written down, so one that takes longer was lost with its agent and is worth another delivery. */
const ORDER_TIMEOUT_MS = 5_000;

/** Starts the agent on a way of mounting images; `imagesIn` is given the folder that may be used for it. */
export async function startAgent(
  context: ServiceContext<AgentConfig>,
  imagesIn: (directory: string) => Promise<ImageRuntime>,
): Promise<void> {
  const settings = context.config;
  keyToken("nodeId", settings.nodeId);
  const stateDir = resolve(settings.stateDir);
  const runDir = join(stateDir, "run");
  await mkdir(runDir, { recursive: true });
  const segmentDirs = segmentDirsOf(settings);
  for (const directory of segmentDirs) await mkdir(directory, { recursive: true, mode: SEGMENT_DIR_MODE });

  const capacity = capacityOf(settings);
  const backend = localBackend({ runDir, images: await imagesIn(join(stateDir, "images")) });
  const bus = await connectServiceBus(context, "node_agent");
  const converter = grpcClient(ImageConverterService, settings.imageConverterAddress, {
    timeoutMs: CALL_TIMEOUT_MS,
  });
  context.onStop("image converter", () => converter.close());

  const publisher = new StatusPublisher(
    bus,
    settings.goneKeepMs,
    (replicaId) => void replicas.announced(replicaId),
  );
  context.onStop("status", () => publisher.close(CLOSE_TIMEOUT_MS));

  const launchSettings: LaunchSettings = {
    nodeAgentAddress: "", // known once the door is open, before anything is launched
    weightStreamerAddress: settings.weightStreamerAddress,
    natsUrl: settings.natsUrl,
    workerHttpHost: settings.workerHttpHost,
    logLevel: settings.logLevel,
  };
  const logFiles = (place: string) => ({
    stdoutFile: join(backend.folder(place), STDOUT_FILE),
    stderrFile: join(backend.folder(place), STDERR_FILE),
  });
  const files = await openReplicaFiles(join(stateDir, "replicas"));
  const replicas = new Replicas({
    capacity,
    files,
    ports: {
      backend,
      save: files.save,
      announce: (replica) => publisher.announce(replica),
      ensureImage: async (replica, signal) =>
        ensureImage(converter, imageReferenceOf(replica, settings.workerImage), signal),
      prepareLaunch: async (replica) => {
        const folder = backend.folder(replica.assignment.replicaId);
        const assignmentFile = await writeAssignment(folder, replica);
        return {
          environment: environmentOf(replica, assignmentFile, capacity.acceleratorKind, launchSettings),
          binds: [
            { path: folder, writable: false },
            ...segmentDirs.map((path) => ({ path, writable: false })),
          ],
          devices: devicesOf(replica, capacity.acceleratorKind, hostDevices()),
          ...logFiles(replica.assignment.replicaId),
        } satisfies Launch;
      },
      lastLines: (replica) => {
        const { stderrFile, stdoutFile } = logFiles(replica.assignment.replicaId);
        return lastLinesOf([stderrFile, stdoutFile]);
      },
      limits: { killTimeoutMs: settings.killTimeoutMs, drainGraceMs: settings.drainGraceMs },
      retry: {
        attemptsMax: Number.MAX_SAFE_INTEGER,
        initialDelayMs: settings.retryDelayMs,
        delayMsMax: settings.retryDelayMsMax,
      },
    },
  });

  const door = await serveGrpc(`${settings.grpcHost}:${settings.grpcPort}`, [
    grpcService(NodeAgentService, {
      attachWorker: (requests, call) => attachWorker(requests, call, replicas),
      listReplicas: async () => ({ replicas: replicas.list().map(statusOf) }),
    }),
  ]);
  context.onStop("grpc", () => door.close(0)); // workers hold their streams for ever, and come back
  launchSettings.nodeAgentAddress = door.address;
  await replicas.open();
  context.onStop("replicas", () => replicas.close());
  const stopReporter = startNodeReporter(
    bus,
    {
      nodeId: settings.nodeId,
      capacity,
      cordoned: () => context.stopping.aborted,
      replicas: () => replicas.list(),
    },
    settings.reportIntervalMs,
  );
  context.onStop("reporter", stopReporter);

  startTailer(context, stateDir, backend, replicas, (batch) =>
    publish(
      bus,
      EVENTS.logBatch,
      { nodeId: settings.nodeId, ...batch, offset: BigInt(batch.offset), offsetEnd: BigInt(batch.offsetEnd) },
      {
        id: `${settings.nodeId}:${batch.source}:${batch.offset}-${batch.offsetEnd}`,
        retry: { attemptsMax: 1, initialDelayMs: 0, delayMsMax: 0 },
      },
    ),
  );
  if (settings.stopReplicasOnExit) {
    context.onStop("replicas' processes", () => replicas.drainAll(settings.exitDrainTimeoutMs));
  }

  const lost = await buryLostReplicas(bus, settings.nodeId, (id) => replicas.has(id), settings.goneKeepMs);
  if (lost.length > 0) context.log.warn("replicas that nobody remembers are gone", { lost });
  const consumer = await consumeIdempotent(
    bus,
    {
      name: `replicas_${settings.nodeId}`,
      keys: { node: settings.nodeId },
      from: "beginning",
      ackTimeoutMs: ORDER_TIMEOUT_MS,
    },
    {
      replicaWanted: (event) => onReplicaWanted(event, replicas, settings),
      replicaUnwanted: (event) => replicas.drain(event.replicaId, event.drainTimeoutMs, event.reason),
    },
  );
  context.onStop("consumer", consumer.close);
  const housekeeping = setInterval(
    () => void replicas.forgetGone(settings.goneKeepMs, Date.now()),
    HOUSEKEEPING_INTERVAL_MS,
  );
  context.onStop("housekeeping", () => clearInterval(housekeeping));
  context.log.info("serving", { address: door.address, ...capacity });
}

function capacityOf(settings: AgentConfig): NodeCapacity {
  const machine = detectCapacity();
  const kind = settings.acceleratorKind || (machine.nvidiaDevices > 0 ? "nvidia" : "cpu");
  const detected = kind.startsWith("nvidia") ? machine.nvidiaDevices : CPU_SLOTS;
  const accelerators = settings.accelerators === 0 ? detected : settings.accelerators;
  if (kind.startsWith("nvidia") && accelerators > machine.nvidiaDevices) {
    throw new PlatformError(
      "invalidArgument",
      `${accelerators} of ${kind} configured, ${machine.nvidiaDevices} found`,
      {
        field: "accelerators",
        remedy: "Lower ACCELERATORS, or check the driver (nvidia-smi).",
      },
    );
  }
  const memoryMib =
    settings.memoryMib === 0
      ? Math.max(0, machine.memoryMib - settings.memoryReservedMib)
      : settings.memoryMib;
  return { acceleratorKind: kind, accelerators, memoryMib };
}

/** The weight streamer makes them too; whoever comes first. */
const segmentDirsOf = ({ segmentDirs, nodeId }: AgentConfig): string[] =>
  segmentDirs.length > 0
    ? segmentDirs.map((directory) => resolve(directory))
    : [`/dev/shm/pilotlight-${process.getuid?.() ?? 0}-${nodeId}`];

const hostDevices = (): string[] =>
  readdirSync("/dev")
    .filter((name) => name.startsWith("nvidia"))
    .map((name) => join("/dev", name));

async function writeAssignment(folder: string, replica: Replica): Promise<string> {
  const file = join(folder, ASSIGNMENT_FILE);
  await writeFile(`${file}.new`, JSON.stringify(toJson(ReplicaAssignmentSchema, replica.assignment)));
  await rename(`${file}.new`, file);
  return file;
}

/** Follows the replicas' files and the configured ones; a replica's folder goes when it is gone and shipped. */
function startTailer(
  context: ServiceContext<AgentConfig>,
  stateDir: string,
  backend: Backend,
  replicas: Replicas,
  send: ConstructorParameters<typeof LogTailer>[0]["send"],
): void {
  const settings = context.config;
  const shipped = new Set<string>();
  const withoutFolder = new Set<string>();
  let globbed: LogSource[] = [];
  let globbedAt = 0;
  const sources = (): LogSource[] => {
    if (Date.now() - globbedAt >= GLOB_INTERVAL_MS) {
      globbed = settings.logGlobs.flatMap(globSources);
      globbedAt = Date.now();
    }
    const own = replicas.list().flatMap((replica) => {
      const place = replica.assignment.replicaId;
      if (withoutFolder.has(place)) return [];
      if (replica.state.kind === "gone" && !existsSync(backend.folder(place))) {
        withoutFolder.add(place);
        return [];
      }
      return replicaSources(replica, backend.folder(place)).filter(({ name }) => !shipped.has(name));
    });
    return [...own, ...globbed];
  };
  const tailer = new LogTailer({
    positions: openPositions(join(stateDir, "log-positions")),
    limits: {
      batchBytesMax: settings.logBatchBytesMax,
      lineBytesMax: Math.min(settings.logLineBytesMax, Math.floor(settings.logBatchBytesMax / 2)),
      recordsMax: RECORDS_PER_BATCH_MAX,
      backlogBytesMax: settings.logBacklogBytesMax,
    },
    pollIntervalMs: settings.logPollIntervalMs,
    keepBytes: settings.logKeepBytes,
    sources,
    send,
    onDone: (source) => {
      const place = source.origin.replica?.replicaId;
      if (place === undefined) return;
      shipped.add(source.name);
      const files = [`${place}/stdout`, `${place}/stderr`];
      if (!files.every((name) => shipped.has(name))) return;
      for (const name of files) shipped.delete(name);
      withoutFolder.add(place);
      void backend.forget(place).catch((error) => {
        context.log.warn("a gone replica's folder cannot be removed", {
          place,
          error: toPlatformError(error),
        });
      });
    },
  });
  tailer.start();
  context.onStop("logs", () => tailer.close(CLOSE_TIMEOUT_MS));
}

/** With the fields that the agent adds to every line a batch stays below NATS' 1 MiB. */
const RECORDS_PER_BATCH_MAX = 1_000;
