// The weight streamer: parts and how they are wired.
import { join } from "node:path";
import { connectServiceBus, consumeIdempotent, watchDocuments } from "@pilotlight/bus";
import { EVENTS, WeightStreamerService } from "@pilotlight/contracts";
import { openStore } from "@pilotlight/object-store";
import { grpcService, runService, serveGrpc } from "@pilotlight/service";
import { openRangeReader, openSegmentFiles } from "@pilotlight/weights";
import { config } from "./config.ts";
import { digestOptions } from "./digests.ts";
import { WeightCache } from "./domain/index.ts";
import { WithdrawnModels } from "./domain/withdrawn-models.ts";
import { createAdmission, onReplicaWanted } from "./handlers/admission.ts";
import { createFindForRank } from "./handlers/find-for-rank.ts";
import { loadWeights } from "./handlers/load-weights.ts";
import { onWeightsWanted } from "./handlers/weights-wanted.ts";
import { countFlight, watchCache } from "./metrics.ts";
import { createPeering } from "./peering.ts";
import { createReporter } from "./reporter.ts";
import { Assignments } from "./store/assignments.ts";

await runService({
  config,
  logFields: ({ nodeId }) => ({ nodeId }),
  async start(context) {
    const settings = context.config;
    const userId = process.getuid?.() ?? 0;
    const memoryDir =
      settings.segmentDir === "" ? `/dev/shm/pilotlight-${userId}-${settings.nodeId}` : settings.segmentDir;
    const reader = openRangeReader({
      threads: settings.requestsMax,
      silenceMs: settings.chunkDeadlineMs,
      connectTimeoutMs: settings.connectTimeoutMs,
      onSlow: (reason) => context.log.warn("weights are read without the native mover: slower", { reason }),
    });
    const segments = openSegmentFiles({
      memory: { directory: memoryDir, bytesMax: settings.memoryBytesMax },
      disk: { directory: join(settings.stateDir, "segments"), bytesMax: settings.diskBytesMax },
      reserveBytes: settings.reserveBytes,
      readerGroupId: userId === 0 ? settings.readerGroupId : undefined,
      mover: reader.mover,
      spare:
        reader.mover === undefined || settings.spareBytes === 0
          ? undefined
          : {
              bytes: settings.spareBytes,
              delayMs: settings.spareDelayMs,
              mover: reader.mover,
              onReady: (bytes) => context.log.info("memory ready for the next load", { bytes }),
              onFailure: (reason) => context.log.warn("no memory made ready: loads are slower", { reason }),
            },
      onFallback: (reason) =>
        context.log.warn("weights go to disk: starts from there are slower", { reason }),
    });
    context.onStop("segments", () => segments.close());
    context.onStop("reader", reader.close);
    // After the memory, which a node that boots makes ready before there is a network.
    const bus = await connectServiceBus(context, "weight_streamer");
    const peering = createPeering(bus, reader.mover, settings);
    const reporter = createReporter(bus, settings.nodeId);
    const cache = new WeightCache({
      openStore,
      segments,
      limits: settings,
      readRange: reader.readRange,
      ...peering?.options,
      revalidateMs: settings.revalidateMs,
      onFlightEnded: countFlight,
      digests: digestOptions(settings, reporter),
      now: () => performance.now(),
    });
    context.onStop("cache", () => cache.close());
    watchCache(cache);
    const joined = await peering?.join(cache);
    context.onStop("peers", async () => joined?.close());
    const assignments = new Assignments(join(settings.stateDir, "assignments.db"));
    context.onStop("assignments", () => assignments.close());
    const orders = await consumeIdempotent(
      bus,
      { name: `assignments_${settings.nodeId}`, keys: { node: settings.nodeId }, from: "beginning" },
      { replicaWanted: (event) => onReplicaWanted(assignments, event) },
    );
    context.onStop("orders", orders.close);
    const withdrawn = new WithdrawnModels();
    const permissions = await watchDocuments(bus, EVENTS.modelPermissionSet, {}, (message) =>
      withdrawn.note(message),
    );
    context.onStop("permissions", permissions.close);
    await permissions.current;
    const admit = createAdmission({ ...settings, assignments, withdrawn });
    const find = createFindForRank(openStore);
    const hints = await consumeIdempotent(
      bus,
      // A node that just booted may be given a replica before it has subscribed.
      { name: `hints_${settings.nodeId}`, keys: { node: settings.nodeId }, from: "beginning" },
      {
        weightsWanted(hint, _, { publishedAt }) {
          if (Date.now() - publishedAt <= settings.hintAgeMsMax)
            onWeightsWanted({ cache, find, withdrawn, reporter }, hint);
        },
      },
    );
    context.onStop("hints", hints.close);
    const door = await serveGrpc(`${settings.grpcHost}:${settings.grpcPort}`, [
      grpcService(WeightStreamerService, {
        loadWeights: (request, call) => loadWeights(cache, request, call, { admit, find, reporter }),
        async listWeights() {
          const { bytesUsed, bytesMax } = cache.usage();
          const weights = cache
            .held()
            .map(({ bytes, dtype = "", ...held }) => ({ ...held, dtype, bytes: BigInt(bytes) }));
          return { weights, bytesUsed: BigInt(bytesUsed), bytesMax: BigInt(bytesMax) };
        },
      }),
    ]);
    context.onStop("grpc", () => door.close(500));
    context.log.info("serving", { address: door.address, segmentDir: memoryDir });
  },
});
