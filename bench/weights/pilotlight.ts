// Pilotlight's side: the real weight streamer of a node, asked over its own door, and an engine's processes that map what it
// announces. A load ends when every tensor's pages were read by every rank.
import { readFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type TensorReady, WeightStreamerService } from "@pilotlight/contracts";
import { serviceMain } from "@pilotlight/local";
import { grpcClient } from "@pilotlight/service";
import { startServiceProcess } from "@pilotlight/testing";
import { Conversation, type Tools } from "./tools.ts";

/** As it is deployed. */
const MAIN = pathToFileURL(serviceMain("weight-streamer", "bundle"));
const CLOCK_TICKS_PER_S = 100;
/** Ready memory beyond the model's bytes: files of a repository begin on pages. */
export const SPARE_ROOM_BYTES = 2 ** 20;

export type StreamerOptions = {
  tools: Tools;
  folder: string;
  natsUrl: string;
  nodeId: string;
  env: Record<string, string>;
  /** Memory that is ready before the first load; 0: none. */
  spareBytes: number;
  /** More settings of the streamer, by environment. */
  settings?: Record<string, string>;
};

/** What holds for every node of a run. */
export type StreamerSetting = Omit<StreamerOptions, "nodeId" | "spareBytes">;

export type LoadResult = {
  seconds: number;
  /** Mapped by all ranks together. */
  mappedBytes: number;
};

export type Streamer = {
  /** Loads and keeps the weights held until the streamer is stopped. */
  load(source: string, ranks?: number): Promise<LoadResult>;
  /** Of the streamer's process so far. */
  cpuSeconds(): number;
  /** Highest resident memory so far, without the memory that was ready for the weights. */
  peakPrivateBytes(): number;
  grpcAddress: string;
  stop(): Promise<void>;
};

export async function startStreamer(options: StreamerOptions): Promise<Streamer> {
  const { tools, natsUrl, nodeId, env } = options;
  const folder = join(options.folder, nodeId);
  await mkdir(folder, { recursive: true });
  const service = await startServiceProcess(MAIN, {
    NATS_URL: natsUrl,
    NODE_ID: nodeId,
    GRPC_PORT: "0",
    STRANGERS_ALLOWED: "true",
    ADMIN_PORT: "0",
    STATE_DIR: join(folder, "state"),
    SEGMENT_DIR: join(folder, "segments"),
    MEMORY_BYTES_MAX: String(8 * 2 ** 30),
    DISK_BYTES_MAX: "0",
    SPARE_BYTES: String(options.spareBytes),
    ...env,
    ...options.settings,
  });
  const { address } = await service.logged((line) => line.msg === "serving");
  // A node is up for minutes before it loads; here the load would come before its memory is ready.
  if (options.spareBytes > 0) await service.logged((line) => line.msg === "memory ready for the next load");
  const client = grpcClient(WeightStreamerService, String(address), { timeoutMs: 60_000 });
  const leases = new AbortController();
  return {
    grpcAddress: String(address),
    async load(source, ranks = 1) {
      const engines = Array.from({ length: ranks }, () => new Conversation(tools.mapper, []));
      // An engine that is up is connected; the other sides' programs are up too before their time begins.
      await client.listWeights({});
      const startedAt = performance.now();
      const mapped = await Promise.all(
        engines.map(async (engine, rank) => {
          const events = client.loadWeights(
            { source, replicaId: "bench", ...(ranks === 1 ? {} : { rank, ranks }) },
            { signal: leases.signal },
          );
          // The stream stays open behind this loop: it is the lease.
          for await (const { event } of events) {
            if (event.case === "tensor") engine.say(pieceOf(event.value));
            if (event.case === "complete") break;
          }
          engine.child.stdin?.end();
          return (await engine.hear<{ bytes: number }>()).bytes;
        }),
      );
      const seconds = (performance.now() - startedAt) / 1000;
      await Promise.all(engines.map((engine) => engine.end()));
      return { seconds, mappedBytes: mapped.reduce((a, b) => a + b, 0) };
    },
    cpuSeconds() {
      const fields = readFileSync(`/proc/${service.pid}/stat`, "utf8")
        .replace(/^.*\) /, "")
        .split(" ");
      return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_S;
    },
    peakPrivateBytes: () => {
      const status = readFileSync(`/proc/${service.pid}/status`, "utf8");
      const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0);
      return kib("VmHWM") * 1024 - options.spareBytes;
    },
    async stop() {
      leases.abort();
      client.close();
      await service.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const pieceOf = ({ path, offset, runBytes, strideBytes, runs }: TensorReady): string =>
  [path, offset, runBytes, strideBytes, runs].join("\t");
