// The agent's parts and how they are wired. Apart from `main.ts` so that tests run the same agent on images of their own.
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type Bus, connectServiceBus, consumeIdempotent } from "@pilotlight/bus";
import { type ImageRuntime, localBackend } from "@pilotlight/compute";
import { ImageConverterService, keyToken, NodeAgentService } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import {
  grpcClient,
  grpcService,
  type ServiceConfig,
  type ServiceContext,
  serveGrpc,
} from "@pilotlight/service";
import { ensureImage, type Pull } from "./adapters/image-converter.ts";
import { lastLinesOf } from "./adapters/last-lines.ts";
import { buryLostReplicas } from "./adapters/lost-replicas.ts";
import { capacityOf, segmentDirsOf } from "./adapters/machine.ts";
import { startNodeReporter } from "./adapters/node-reporter.ts";
import { prepareLaunch } from "./adapters/prepare-launch.ts";
import { StatusPublisher } from "./adapters/status-publisher.ts";
import { CompileCaches } from "./compile-cache/compile-caches.ts";
import { compileCachePorts } from "./compile-cache/ports.ts";
import type { config } from "./config.ts";
import { imageReferenceOf, type LaunchSettings } from "./domain/launch.ts";
import { statusOf } from "./domain/status.ts";
import { attachWorker } from "./handlers/attach-worker.ts";
import { onReplicaWanted } from "./handlers/replica-wanted.ts";
import { NodeLogs } from "./logs/node-logs.ts";
import { STDERR_FILE, STDOUT_FILE } from "./logs/sources.ts";
import type { RunnerPorts } from "./replica-runner.ts";
import { Replicas } from "./replicas.ts";
import { openReplicaFiles } from "./store/replica-files.ts";

type AgentConfig = ServiceConfig<(typeof config)["fields"]>;

/** As the weight streamer makes them. */
const SEGMENT_DIR_MODE = 0o750;
/** Of calls with one answer; a conversion is awaited as long as it takes. */
const CALL_TIMEOUT_MS = 10_000;
/** Orders are only written down, so one that takes longer was lost with its agent and is worth another delivery. */
const ORDER_TIMEOUT_MS = 5_000;

/** How a node comes to its images. */
export type NodeImages = {
  runtime: ImageRuntime;
  /** The bucket of the converted images, where compile caches lie too. */
  bucket: ObjectStore;
  /** Brings images that are not converted yet. Undefined: they are waited for. */
  pull?: Pull | undefined;
  /** Joins the other nodes that have images, over the bus. */
  share?(bus: Bus): Promise<void>;
  /** Removes what is not needed any more; called now and then. */
  tidy?(): Promise<void>;
};

/** Starts the agent on a way of mounting images; `imagesIn` is given the folder that may be used for it. */
export async function startAgent(
  context: ServiceContext<AgentConfig>,
  imagesIn: (directory: string) => Promise<NodeImages>,
): Promise<void> {
  const settings = context.config;
  const nodeId = keyToken("nodeId", settings.nodeId);
  const stateDir = resolve(settings.stateDir);
  const runDir = join(stateDir, "run");
  const segmentDirs = segmentDirsOf(settings);
  const capacity = capacityOf(settings);
  await mkdir(runDir, { recursive: true });
  for (const directory of segmentDirs) await mkdir(directory, { recursive: true, mode: SEGMENT_DIR_MODE });

  const images = await imagesIn(join(stateDir, "images"));
  const backend = localBackend({ runDir, images: images.runtime });
  const bus = await connectServiceBus(context, "node_agent");
  await images.share?.(bus);
  const converter = grpcClient(ImageConverterService, settings.imageConverterAddress, {
    timeoutMs: CALL_TIMEOUT_MS,
  });
  context.onStop("image converter", () => converter.close());
  const publisher = new StatusPublisher(
    bus,
    settings.goneKeepMs,
    (replicaId) => void replicas.announced(replicaId),
  );
  context.onStop("status", () => publisher.close(settings.closeTimeoutMs));

  const launchSettings: LaunchSettings = {
    nodeAgentAddress: "", // known once the door is open, before anything is launched
    weightStreamerAddress: settings.weightStreamerAddress,
    natsUrl: settings.natsUrl,
    workerHttpHost: settings.workerHttpHost,
    workerAdvertisedHost: settings.workerAdvertisedHost,
    logLevel: settings.logLevel,
  };
  const caches = new CompileCaches({
    bucket: images.bucket,
    directory: join(stateDir, "compile-caches"),
    restoreTimeoutMs: settings.compileCacheTimeoutMs,
    settleMs: settings.compileCacheSettleMs,
    archivesMax: settings.compileCacheArchivesMax,
  });
  const compileCache = compileCachePorts(caches, capacity.acceleratorKind);
  const files = await openReplicaFiles(join(stateDir, "replicas"));
  const ports: RunnerPorts = {
    backend,
    save: files.save,
    announce: (replica) => publisher.announce(replica),
    ensureImage: async (replica, signal) =>
      ensureImage(converter, imageReferenceOf(replica, settings.workerImage), images.pull, signal),
    restoreCompileCache: compileCache.restore,
    saveCompileCache: compileCache.save,
    prepareLaunch: (replica) =>
      prepareLaunch(
        replica,
        backend,
        capacity.acceleratorKind,
        segmentDirs,
        compileCache.foldersOf(replica),
        launchSettings,
      ),
    lastLines: ({ assignment }) =>
      lastLinesOf([STDERR_FILE, STDOUT_FILE].map((name) => join(backend.folder(assignment.replicaId), name))),
    limits: { killTimeoutMs: settings.killTimeoutMs, drainGraceMs: settings.drainGraceMs },
    retry: {
      attemptsMax: Number.MAX_SAFE_INTEGER,
      initialDelayMs: settings.retryDelayMs,
      delayMsMax: settings.retryDelayMsMax,
    },
  };
  const replicas = new Replicas({ capacity, files, ports });

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

  const cordoned = () => context.stopping.aborted;
  const view = { nodeId, capacity, cordoned, replicas: () => replicas.list() };
  context.onStop("reporter", startNodeReporter(bus, view, settings.reportIntervalMs));
  const logs = new NodeLogs(bus, join(stateDir, "log-positions"), settings, backend, replicas);
  logs.start();
  context.onStop("logs", () => logs.close(settings.closeTimeoutMs));
  if (settings.stopReplicasOnExit)
    context.onStop("replicas' processes", () => replicas.drainAll(settings.exitDrainTimeoutMs));

  const lost = await buryLostReplicas(bus, nodeId, (id) => replicas.has(id), settings.goneKeepMs);
  if (lost.length > 0) context.log.warn("replicas that nobody remembers are gone", { lost });
  const orders = await consumeIdempotent(
    bus,
    {
      name: `replicas_${nodeId}`,
      keys: { node: nodeId },
      from: "beginning",
      ackTimeoutMs: ORDER_TIMEOUT_MS,
    },
    {
      replicaWanted: (event) => onReplicaWanted(event, replicas, settings),
      replicaUnwanted: (event) => replicas.drain(event.replicaId, event.drainTimeoutMs, event.reason),
    },
  );
  context.onStop("orders", orders.close);
  const forget = () =>
    replicas.forgetGone(settings.goneKeepMs, Date.now()).catch((error) => {
      context.log.warn("gone replicas cannot be forgotten", { error: toPlatformError(error) });
    });
  const tidy = () =>
    Promise.all([images.tidy?.(), caches.tidy(compileCache.inUse(replicas.list()))]).catch((error) => {
      context.log.warn("what no replica needs cannot be removed", { error: toPlatformError(error) });
    });
  const housekeeping = setInterval(() => {
    void forget();
    void tidy();
  }, settings.housekeepingIntervalMs);
  context.onStop("housekeeping", () => clearInterval(housekeeping));
  context.log.info("serving", { address: door.address, ...capacity });
}
