// All log files of the node: those of the replicas, whose folders go when they are gone and shipped, and the configured ones.
import { existsSync } from "node:fs";
import { type Bus, publish } from "@pilotlight/bus";
import type { Backend } from "@pilotlight/compute";
import { EVENTS } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import type { Replicas } from "../replicas.ts";
import { openPositions, type Positions } from "./positions.ts";
import { globSources, replicaSources } from "./sources.ts";
import { type LogSource, LogTailer, type OutgoingBatch } from "./tailer.ts";

export type NodeLogsSettings = {
  nodeId: string;
  logGlobs: readonly string[];
  logContainerTag: string;
  logPollIntervalMs: number;
  logBatchBytesMax: number;
  logLineBytesMax: number;
  logBacklogBytesMax: number;
  logKeepBytes: number;
};

/** How often the names of log files are looked up anew. */
const GLOB_INTERVAL_MS = 1_000;
/** With the fields that the agent adds to every line a batch stays below NATS' 1 MiB. */
const RECORDS_PER_BATCH_MAX = 1_000;
/** A failed batch stays in its file: the tailer tries again by itself. */
const ONE_ATTEMPT = { attemptsMax: 1, initialDelayMs: 0, delayMsMax: 0 };

export class NodeLogs {
  readonly #settings: NodeLogsSettings;
  readonly #backend: Backend;
  readonly #replicas: Replicas;
  readonly #positions: Positions;
  readonly #tailer: LogTailer;
  /** Shipped files of replicas of which the other file is not. */
  readonly #shipped = new Set<string>();
  /** Gone replicas without a folder: nothing to look at. */
  readonly #settled = new Set<string>();
  #globbed: LogSource[] = [];
  #globbedAt = 0;

  constructor(bus: Bus, directory: string, settings: NodeLogsSettings, backend: Backend, replicas: Replicas) {
    this.#settings = settings;
    this.#backend = backend;
    this.#replicas = replicas;
    this.#positions = openPositions(directory);
    this.#tailer = new LogTailer({
      positions: this.#positions,
      limits: {
        batchBytesMax: settings.logBatchBytesMax,
        lineBytesMax: Math.min(settings.logLineBytesMax, Math.floor(settings.logBatchBytesMax / 2)),
        recordsMax: RECORDS_PER_BATCH_MAX,
        backlogBytesMax: settings.logBacklogBytesMax,
      },
      pollIntervalMs: settings.logPollIntervalMs,
      keepBytes: settings.logKeepBytes,
      sources: () => this.#sources(),
      send: (batch) => send(bus, settings.nodeId, batch),
      onDone: (source) => this.#onDone(source),
    });
  }

  start(): void {
    this.#tailer.start();
  }

  /** Ships what is there, within `timeoutMs`. */
  close(timeoutMs: number): Promise<void> {
    return this.#tailer.close(timeoutMs);
  }

  #sources(): LogSource[] {
    if (Date.now() - this.#globbedAt >= GLOB_INTERVAL_MS) {
      this.#globbed = this.#settings.logGlobs.flatMap((glob) =>
        globSources(glob, this.#settings.logContainerTag),
      );
      this.#globbedAt = Date.now();
      for (const place of this.#settled) if (!this.#replicas.has(place)) this.#settled.delete(place);
    }
    const own = this.#replicas.list().flatMap((replica) => {
      const place = replica.assignment.replicaId;
      if (this.#settled.has(place)) return [];
      const folder = this.#backend.folder(place);
      if (replica.state.kind === "gone" && !existsSync(folder)) {
        this.#settled.add(place);
        return [];
      }
      return replicaSources(replica, folder).filter(({ name }) => !this.#shipped.has(name));
    });
    return [...own, ...this.#globbed];
  }

  #onDone({ name, origin }: LogSource): void {
    const place = origin.replica?.replicaId;
    const replica = this.#replicas.list().find(({ assignment }) => assignment.replicaId === place);
    if (place === undefined || replica === undefined) return;
    this.#shipped.add(name);
    const names = replicaSources(replica, "").map((source) => source.name);
    if (!names.every((one) => this.#shipped.has(one))) return;
    this.#settled.add(place);
    void this.#forget(place, names);
  }

  /** The files first, then how far they were shipped: the other way round a crash would ship them again. */
  async #forget(place: string, names: readonly string[]): Promise<void> {
    try {
      await this.#backend.forget(place);
      for (const name of names) {
        this.#positions.remove(name);
        this.#shipped.delete(name);
      }
    } catch (thrown) {
      logger("logs").warn("a gone replica's folder cannot be removed", {
        place,
        error: toPlatformError(thrown),
      });
    }
  }
}

async function send(bus: Bus, nodeId: string, batch: OutgoingBatch): Promise<void> {
  const { source, lines } = batch;
  const [offset, offsetEnd] = [BigInt(batch.offset), BigInt(batch.offsetEnd)];
  const id = `${nodeId}:${source}:${offset}-${offsetEnd}`;
  await publish(
    bus,
    EVENTS.logBatch,
    { nodeId, source, offset, offsetEnd, lines },
    { id, retry: ONE_ATTEMPT },
  );
}
