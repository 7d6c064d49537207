// The log service: parts and how they are wired. Started with ANALYST_ARGUMENT it is the service's analyst process.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { connectServiceBus, consumeIdempotent } from "@pilotlight/bus";
import { LogsService } from "@pilotlight/contracts";
import { openStore } from "@pilotlight/object-store";
import { grpcService, runService, serveGrpc } from "@pilotlight/service";
import { ANALYST_ARGUMENT, Analyst } from "./adapters/analyst.ts";
import { runAnalyst } from "./adapters/analyst-process.ts";
import { Admission } from "./admission.ts";
import { config } from "./config.ts";
import { searchLogs } from "./handlers/search-logs.ts";
import { Housekeeping, writerName } from "./housekeeping.ts";
import { Intake } from "./intake.ts";
import { Catalogue } from "./store/catalogue.ts";
import { Journal } from "./store/journal.ts";

/** Batches taken from the bus and not in the journal yet; each is below 1 MiB. */
const BATCHES_IN_HAND_MAX = 32;

if (process.argv[2] === ANALYST_ARGUMENT) await runAnalyst(JSON.parse(process.argv[3] ?? "{}"));
else await runLogs();

async function runLogs(): Promise<void> {
  await runService({
    config,
    async start(context) {
      const settings = context.config;
      const { stateDir } = settings;
      await mkdir(stateDir, { recursive: true });
      const bus = await connectServiceBus(context, "logs");
      const bucket = openStore(settings.bucketUri);
      const analyst = new Analyst({
        entry: fileURLToPath(import.meta.url),
        memoryBytesMax: settings.analystMemoryBytesMax,
        threads: settings.analystThreads,
        idleMs: settings.analystIdleMs,
        temporaryDirectory: join(stateDir, "spill"),
      });
      context.onStop("analyst", () => analyst.close());
      const journal = await Journal.open(join(stateDir, "journal"), {
        fileBytes: settings.segmentBytes,
        syncIntervalMs: settings.journalSyncIntervalMs,
      });
      context.onStop("journal", () => journal.close());
      const catalogue = new Catalogue({
        bucket,
        cacheDirectory: join(stateDir, "segments"),
        cacheBytesMax: settings.cacheBytesMax,
        statsBytesMax: settings.statsBytesMax,
      });
      const intake = await Intake.open({
        journal,
        ledgerFile: join(stateDir, "ledger.json"),
        journalBytesMax: settings.journalBytesMax,
        lineAgeMsMax: settings.retentionMs,
      });
      const housekeeping = new Housekeeping({
        journal,
        intake,
        catalogue,
        analyst,
        workDirectory: join(stateDir, "work"),
        writer: await writerName(join(stateDir, "writer")),
        segmentAgeMs: settings.segmentAgeMs,
        merge: {
          lateMs: settings.mergeLateMs,
          segmentsMax: settings.mergeSegmentsMax,
          mergedBytesMax: settings.mergedBytesMax,
        },
        retention: { keepMs: settings.retentionMs, bytesMax: settings.retentionBytesMax },
        upkeepIntervalMs: settings.upkeepIntervalMs,
      });
      await housekeeping.start();
      context.addReadiness("bucket", () =>
        catalogue.isListed ? undefined : "the bucket was not reached yet",
      );
      context.onStop("housekeeping", () => housekeeping.close());
      const batches = await consumeIdempotent(
        bus,
        {
          name: "batches",
          from: "beginning",
          inFlightMax: BATCHES_IN_HAND_MAX,
          ackTimeoutMs: settings.batchAckTimeoutMs,
        },
        { logBatch: (batch, _ports, { id }) => intake.take(batch, id) },
      );
      context.onStop("consumer", () => {
        intake.close();
        return batches.close();
      });
      const search = {
        journal,
        catalogue,
        analyst,
        intake,
        segmentsAtOnce: settings.searchSegmentsAtOnce,
        searches: new Admission("searches", settings.searchesMax, settings.searchesWaitingMax),
        followers: new Admission("searches that follow", settings.followersMax, 0),
        searchTimeoutMs: settings.searchTimeoutMs,
        followQueueMax: settings.followQueueMax,
      };
      const door = await serveGrpc(`${settings.grpcHost}:${settings.grpcPort}`, [
        grpcService(LogsService, { searchLogs: (request, call) => searchLogs(request, call, search) }),
      ]);
      context.onStop("grpc", () => door.close(1_000));
      context.log.info("serving", { address: door.address, bucketUri: settings.bucketUri });
    },
  });
}
