// Weights from the bucket to the engine's memory: Pilotlight's streamer against the usual ways, side by side in one run. A
// real S3 server over shared memory, behind a link in user space with 10 ms to the first byte; each comparison alternates its
// sides and takes medians. Needs Python 3 for the peers (their packages are installed once into the user's cache).
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { ensureNatsServer, ensureVersitygw, freePort, startNatsServer } from "@pilotlight/servers";
import { mountHugeMemory } from "@pilotlight/weights/huge-memory";
import { type Folders, inFolders } from "../src/folders.ts";
import { type Figures, median } from "../src/report.ts";
import { type BenchBucket, type BenchModel, modelUri, startBucket } from "./bucket.ts";
import { SPARE_ROOM_BYTES, type Streamer, type StreamerSetting, startStreamer } from "./pilotlight.ts";
import { relay } from "./relay.ts";
import {
  CONNECTIONS,
  downloadThenLoad,
  ensurePeers,
  fastsafetensors,
  PACKAGES,
  readPlainly,
  runai,
  type SideContext,
  s5cmd,
} from "./sides.ts";
import { TARGETS } from "./targets.ts";
import { buildTools, startLink, type Tools, touchMemory } from "./tools.ts";

const FIRST_BYTE_MS = 10;
const GBIT = 1e9;
/** Generated models: 7B- and 70B-like tensors with fewer layers, and many small ones; two to four GB each. */
const MODELS = {
  full: {
    "7b": "generated://llama/7b?layers=8",
    "70b": "generated://llama/70b?layers=1&shardMB=700",
    many: "generated://llama/many",
    // An eighth of it for each of eight nodes.
    relay: "generated://llama/many?layers=150",
  },
  smoke: {
    "7b": "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4&layers=5",
    "70b":
      "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4&layers=5&shardMB=5",
    many: "generated://llama/tiny?layers=50",
    relay: "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4&layers=5",
  },
};
type ModelName = keyof typeof MODELS.full;

/** The parts of the run, in their order; each can be run alone. */
const PARTS = ["links", "unlimited", "10g", "70b", "many", "relay"] as const;
type Part = (typeof PARTS)[number];
const ROUNDS_DEFAULT = 3;
/** Gbit/s of the links whose share is a figure, and loads over each: a slow one takes half a minute and always the same. */
const LINK_LOADS: readonly [gbit: number, loads: number][] = [
  [1, 1],
  [10, 7],
];

type RunOptions = { smoke: boolean; parts?: readonly string[]; rounds?: number };

/** What `run` finds built and fetched. */
export async function prepare({ smoke }: RunOptions): Promise<void> {
  await buildTools();
  await ensureNatsServer();
  await ensureVersitygw();
  // The peers' packages are gigabytes: the smoke run goes without them.
  if (!smoke) await ensurePeers();
}

export async function run({ smoke, parts = PARTS, rounds }: RunOptions): Promise<Figures> {
  const unknown = parts.find((part) => !(PARTS as readonly string[]).includes(part));
  if (unknown !== undefined) throw new Error(`no part ${unknown}: it is one of ${PARTS.join(", ")}`);
  const has = (part: Part): boolean => parts.includes(part);
  let stop = async () => {};
  const end = () => stop();
  return inFolders("bench-weights-", end, async (folders) => {
    const bench = await Bench.start(smoke, smoke ? 1 : (rounds ?? ROUNDS_DEFAULT), folders);
    stop = () => bench.stop();
    if (has("links") || has("unlimited") || has("10g")) {
      await bench.withModel("7b", async (model) => {
        if (has("links")) await bench.links(model);
        if (has("unlimited")) await bench.unlimited(model);
        if (has("10g")) await bench.tenGigabit(model);
      });
    }
    if (has("70b")) await bench.withModel("70b", (model) => bench.seventyBillion(model));
    if (has("many")) await bench.withModel("many", (model) => bench.manySmall(model));
    if (has("relay")) await bench.withModel("relay", (model) => bench.relay(model));
    return {
      bench: "weights",
      targets: TARGETS,
      figures: bench.figures,
      notes: bench.notes,
      versions: Object.fromEntries(PACKAGES.map((item) => item.split("==") as [string, string])),
    };
  });
}

/** Undefined where there is none: then the streamers use ordinary shared memory. */
function hugeMemoryIn(memory: string): string | undefined {
  const directory = join(memory, "huge");
  try {
    mountHugeMemory(directory);
    return directory;
  } catch (error) {
    process.stderr.write(`  ${(error as Error).message}\n`);
    return undefined;
  }
}

type Cost = { seconds: number; coresPerGb: number; peakMb: number };

class Bench {
  readonly figures: Record<string, number | null> = Object.fromEntries(
    Object.keys(TARGETS).map((key) => [key, null]),
  );
  readonly notes: Record<string, string> = {};
  readonly #smoke: boolean;
  readonly #rounds: number;
  readonly #context: SideContext;
  readonly #streamer: StreamerSetting;
  readonly #ending: (() => Promise<void>)[];
  #names = 0;

  private constructor(
    smoke: boolean,
    rounds: number,
    context: SideContext,
    streamer: StreamerSetting,
    ending: (() => Promise<void>)[],
  ) {
    this.#smoke = smoke;
    this.#rounds = rounds;
    this.#context = context;
    this.#streamer = streamer;
    this.#ending = ending;
  }

  static async start(smoke: boolean, rounds: number, { scratch: disk, memory }: Folders): Promise<Bench> {
    const tools: Tools = await buildTools();
    const venv = smoke ? "" : await ensurePeers();
    const bucket: BenchBucket = await startBucket(memory);
    const huge = hugeMemoryIn(memory);
    const nats = await startNatsServer({ stateDir: join(disk, "nats"), port: await freePort() });
    const ending = [() => bucket.stop(), () => nats.stop()];
    const streamer = { tools, folder: huge ?? memory, natsUrl: nats.url, env: bucket.env };
    return new Bench(smoke, rounds, { tools, bucket, venv, disk, memory }, streamer, ending);
  }

  async stop(): Promise<void> {
    for (const end of this.#ending) await end();
  }

  async withModel(name: ModelName, work: (model: BenchModel) => Promise<void>): Promise<void> {
    const { bucket } = this.#context;
    const model = await bucket.add(name, MODELS[this.#smoke ? "smoke" : "full"][name]);
    try {
      await work(model);
    } finally {
      await bucket.remove(name);
    }
  }

  /**
   * What a load gets of a link, nobody else's load between two of ours; and what the links themselves can do: one that is slower
   * than it claims would flatter everybody.
   */
  async links(model: BenchModel): Promise<void> {
    for (const [gbit, loads] of LINK_LOADS) {
      const all: Cost[] = [];
      await this.#through(gbit, async (address) => {
        for (let i = 0; i < (this.#smoke ? 1 : loads); i++) all.push(await this.#cost(model, address));
      });
      const times = all.map(({ seconds }) => seconds);
      this.#share(`weights.link_share_${gbit}g`, model, times, gbit);
      if (gbit === 10) this.#tellCosts("over the link of 10 Gbit/s", all);
    }
    for (const gbit of this.#smoke ? [] : [1, 10, 25]) {
      const seconds = await this.#through(gbit, (address) => this.#plain(model, address));
      const reached = (model.bytes * 8) / seconds / GBIT;
      this.notes[`link ${gbit} Gbit/s`] = `a plain range reader gets ${reached.toFixed(2)} Gbit/s through it`;
    }
  }

  async unlimited(model: BenchModel): Promise<void> {
    const direct = this.#context.bucket.address;
    const costs: Cost[] = [];
    for (let round = 0; round < this.#rounds; round++) costs.push(await this.#cost(model, direct));
    this.#tellCosts("unlimited", costs);
    const times = await this.#alternate({
      ours: () => this.#ours(model, direct),
      unprepared: () => this.#oursUnprepared(model, direct),
      limit: () => this.#plain(model, direct),
      sequential: () => readPlainly(this.#context, model, direct, 1),
      ...this.#peers({
        s5cmd: () => s5cmd(this.#context, model, direct),
        runai: () => runai(this.#context, model, direct),
      }),
    });
    this.#ratio("weights.limit_share_unlimited", times, "limit", "ours");
    this.#ratio("weights.speedup_s5cmd_unlimited", times, "s5cmd", "ours");
    this.#ratio("weights.speedup_runai_unlimited", times, "runai", "ours");
  }

  async tenGigabit(model: BenchModel): Promise<void> {
    await this.#through(10, async (address) => {
      const times = await this.#alternate({
        ours: () => this.#ours(model, address),
        limit: () => this.#plain(model, address),
        ...this.#peers({
          runai: () => runai(this.#context, model, address),
          download: async () => (await downloadThenLoad(this.#context, model, address, 1)).seconds,
        }),
      });
      this.#ratio("weights.speedup_runai_10g", times, "runai", "ours");
      this.#ratio("weights.speedup_download_then_load_7b", times, "download", "ours");
    });
  }

  async seventyBillion(model: BenchModel): Promise<void> {
    await this.#through(10, async (address, wireBytes) => {
      const before = await wireBytes();
      await this.#ours(model, address, 4);
      this.figures["weights.tp4_wire_ratio"] = ((await wireBytes()) - before) / model.bytes;
      const times = await this.#alternate({
        ours: () => this.#ours(model, address, 4),
        ...this.#peers({
          download: async () => (await downloadThenLoad(this.#context, model, address, 4)).seconds,
        }),
      });
      this.#ratio("weights.speedup_download_then_load_70b", times, "download", "ours");
    });
  }

  /** No target of its own: thousands of small tensors must not cost more than their bytes. */
  async manySmall(model: BenchModel): Promise<void> {
    const direct = this.#context.bucket.address;
    const times = await this.#alternate({
      ours: () => this.#ours(model, direct),
      limit: () => this.#plain(model, direct),
      ...this.#peers({ runai: () => runai(this.#context, model, direct) }),
    });
    this.notes["many small tensors, unlimited"] = shown(times);
    if (this.#smoke) return;
    const folder = join(this.#context.disk, "fastsafetensors");
    await cp(model.folder, folder, { recursive: true });
    const seconds = await fastsafetensors(this.#context, model, folder);
    this.notes.fastsafetensors = `${seconds.toFixed(2)} s from this machine's disk, no wire`;
    await rm(folder, { recursive: true, force: true });
  }

  async relay(model: BenchModel): Promise<void> {
    const { bucket, tools } = this.#context;
    const result = await relay(this.#smoke ? 3 : 8, { streamer: this.#streamer, tools, bucket, model });
    this.figures["weights.relay8_time_ratio"] = result.timeRatio;
    this.figures["weights.relay8_bucket_ratio"] = result.bucketRatio;
    this.notes["weights.relay8_time_ratio"] = result.note;
  }

  async #ours(model: BenchModel, address: string, ranks = 1): Promise<number> {
    return (await this.#cost(model, address, ranks)).seconds;
  }

  /** The same on a node whose memory is not ready: every page is allocated while the load goes on. */
  async #oursUnprepared(model: BenchModel, address: string): Promise<number> {
    return this.#withStreamer(0, async (streamer) => {
      await touchMemory(this.#context.tools, model.bytes, this.#streamer.folder);
      return (await streamer.load(modelUri(address, model.name))).seconds;
    });
  }

  async #withStreamer<T>(spareBytes: number, work: (streamer: Streamer) => Promise<T>): Promise<T> {
    const nodeId = `node-${++this.#names}`;
    const streamer = await startStreamer({ ...this.#streamer, nodeId, spareBytes });
    try {
      return await work(streamer);
    } finally {
      await streamer.stop();
    }
  }

  /** One load in a fresh streamer, where nothing is cached, and what its process took for it. */
  async #cost(model: BenchModel, address: string, ranks = 1): Promise<Cost> {
    return this.#withStreamer(model.bytes + SPARE_ROOM_BYTES, async (streamer) => {
      const before = streamer.cpuSeconds();
      const { seconds, mappedBytes } = await streamer.load(modelUri(address, model.name), ranks);
      if (mappedBytes < model.bytes * 0.9) throw new Error(`only ${mappedBytes} bytes reached the engine`);
      const coresPerGb = (streamer.cpuSeconds() - before) / (model.bytes / 1e9);
      return { seconds, coresPerGb, peakMb: streamer.peakPrivateBytes() / 1e6 };
    });
  }

  /** The figures are those over a link; two busy cores without one are told beside them. */
  #tellCosts(where: string, all: readonly Cost[]): void {
    const key = "weights.cores_per_gb_s";
    const costs = all.map(({ coresPerGb }) => coresPerGb);
    this.figures[key] ??= median(costs);
    const peakKey = "weights.peak_rss_over_ring_mb";
    this.figures[peakKey] = Math.max(this.figures[peakKey] ?? 0, ...all.map(({ peakMb }) => peakMb));
    const note = `${where} ${costs.map((cost) => cost.toFixed(2)).join(", ")}`;
    this.notes[key] = [this.notes[key], note].filter((part) => part !== undefined).join("; ");
  }

  async #plain(model: BenchModel, address: string): Promise<number> {
    await touchMemory(this.#context.tools, model.bytes);
    return readPlainly(this.#context, model, address, CONNECTIONS);
  }

  async #through<T>(
    gbit: number,
    work: (address: string, wireBytes: () => Promise<number>) => Promise<T>,
  ): Promise<T> {
    const { tools, bucket } = this.#context;
    const rates = { link: gbit * GBIT };
    const link = await startLink(tools, FIRST_BYTE_MS, rates, [{ to: bucket.address, rates: ["link"] }]);
    try {
      return await work(link.addresses[0] ?? "", async () => (await link.bytes())[0] ?? 0);
    } finally {
      await link.stop();
    }
  }

  #peers<T>(sides: T): T | Record<string, never> {
    return this.#smoke ? {} : sides;
  }

  /** Medians of each side's seconds, the sides taking turns. */
  async #alternate(sides: Record<string, () => Promise<number>>): Promise<Record<string, number>> {
    const times: Record<string, number[]> = {};
    for (let round = 0; round < this.#rounds; round++) {
      for (const [name, side] of Object.entries(sides)) {
        times[name] ??= [];
        const seconds = await side();
        times[name].push(seconds);
        process.stderr.write(`  round ${round + 1}, ${name}: ${seconds.toFixed(2)} s\n`);
      }
    }
    const medians = Object.fromEntries(Object.entries(times).map(([name, all]) => [name, median(all)]));
    process.stdout.write(`  ${shown(medians)}\n`);
    return medians;
  }

  #ratio(key: string, times: Record<string, number>, over: string, under: string): void {
    const [numerator, denominator] = [times[over], times[under]];
    this.figures[key] = numerator === undefined || denominator === undefined ? null : numerator / denominator;
    this.notes[key] = shown(times);
  }

  #share(key: string, model: BenchModel, times: readonly number[], gbit: number): void {
    this.figures[key] = (model.bytes * 8) / (gbit * GBIT) / median(times);
    const all = times.map((seconds) => seconds.toFixed(2)).join(", ");
    this.notes[key] = `${(model.bytes / 1e9).toFixed(2)} GB in ${all} s`;
  }
}

const shown = (times: Record<string, number>): string =>
  Object.entries(times)
    .map(([name, seconds]) => `${name} ${seconds.toFixed(2)} s`)
    .join(", ");
