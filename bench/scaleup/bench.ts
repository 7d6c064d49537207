// The whole scale-up, from "a replica is wanted" to its first token, on a node that has to boot and holds nothing: the published
// comparison at one tenth of its bytes and times. Both sides have the same node, link, disk, image, weights and engine.
//   PILOTLIGHT_BENCH_CONTAINERD  directory with the programs of containerd 2.1 or newer; default: of PATH
//   PILOTLIGHT_BENCH_BASELINE    0: without the baseline, to look at our side alone
//   PILOTLIGHT_BENCH_DRAWINGS    directory for the waterfalls as SVG; default: none are written
// Parts: 7b (1.4 GB), 70b (3.5 GB) and, only if it is named, 70b-full (14 GB: needs 30 GB of memory and of disk).
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ensureWorkerImage } from "@pilotlight/local";
import { cacheDir, ensureNatsServer, ensurePostgres, ensureVersitygw } from "@pilotlight/servers";
import { findContainerd } from "../image/containerd.ts";
import { cannotLimit } from "../image/disk.ts";
import { type NodeProfile, onEmptyNode, type Remote, startRemote } from "../image/node.ts";
import type { PreparedImage } from "../image/recipes.ts";
import { inFolders } from "../src/folders.ts";
import { type Figures, median, versionOf } from "../src/report.ts";
import { untilSettled } from "../src/settle.ts";
import { type BenchBucket, type BenchModel, startBucket } from "../weights/bucket.ts";
import { buildTools, type Link, startLink } from "../weights/tools.ts";
import { baselineStart } from "./baseline.ts";
import { drawBars, drawSvg } from "./drawing.ts";
import { prepareEngineBase, prepareEngineImage } from "./image.ts";
import { type OurStart, Pilotlight, type Sleeping } from "./pilotlight.ts";
import { FIRST_BYTE_MS, MODELS, type ModelName, NODE, NODE_BOOT_MS } from "./profile.ts";
import { inOneLine, type Start } from "./start.ts";
import { TARGETS } from "./targets.ts";

const PARTS_USUAL: readonly ModelName[] = ["7b", "70b"];
const ROUNDS_USUAL = 3;
const SMOKE_BOOT_MS = 200;
const IMAGE_IN_REGISTRY = "engine";
/** The file system's own, logs and state. */
const DISK_ROOM_BYTES = 1e9;

type RunOptions = { smoke: boolean; parts?: readonly string[]; rounds?: number };

/** What `run` finds built and fetched. */
export async function prepare({ smoke }: RunOptions): Promise<void> {
  await buildTools();
  await ensureNatsServer();
  await ensurePostgres();
  await ensureVersitygw();
  if (smoke) await ensureWorkerImage(cacheDir("images"));
  else await prepareEngineBase(log);
}

export async function run({
  smoke,
  parts = PARTS_USUAL,
  rounds = ROUNDS_USUAL,
}: RunOptions): Promise<Figures> {
  const unknown = parts.find((part) => !(part in MODELS.full));
  if (unknown !== undefined)
    throw new Error(`no part ${unknown}: it is one of ${Object.keys(MODELS.full).join(", ")}`);
  let bench: ScaleupBench | undefined;
  const end = async () => bench?.close();
  return inFolders("bench-scaleup-", end, async ({ scratch, memory }) => {
    bench = new ScaleupBench(scratch, memory, smoke);
    await bench.open();
    for (const part of parts) await bench.compare(part as ModelName, smoke ? 1 : rounds);
    return bench.result();
  });
}

class ScaleupBench {
  readonly #scratch: string;
  readonly #memory: string;
  readonly #smoke: boolean;
  readonly #node: NodeProfile;
  readonly #figures: Record<string, number | null> = Object.fromEntries(
    Object.keys(TARGETS).map((key) => [key, null]),
  );
  readonly #notes: Record<string, string> = {};
  readonly #ending: (() => Promise<void>)[] = [];
  #image: PreparedImage | undefined;
  #bucket!: BenchBucket;
  #registry: Remote | undefined;
  #link!: Link;
  #pilotlight!: Pilotlight;

  constructor(scratch: string, memory: string, smoke: boolean) {
    this.#scratch = scratch;
    this.#memory = memory;
    this.#smoke = smoke;
    const why = smoke ? "the smallest run" : cannotLimit();
    this.#node = why === undefined ? NODE : { ...NODE, disk: undefined };
    if (why !== undefined) this.#notes["the node's disk"] = `not limited: ${why}`;
  }

  /** The image, the bucket, the registry, the link before both, and the platform. */
  async open(): Promise<void> {
    const tools = await buildTools();
    // The large image is minutes of work: the smoke run takes the platform's own.
    if (!this.#smoke) this.#image = await prepareEngineImage(this.#scratch, log);
    const image = this.#image?.reference ?? (await ensureWorkerImage(cacheDir("images"))).reference;
    this.#bucket = await startBucket(this.#memory);
    this.#ending.push(this.#bucket.stop);
    if (this.#image !== undefined) {
      const unlimited = { ...this.#node, bitsPerSecond: 0, roundTripMs: 0 };
      const empty = join(this.#scratch, "no-bucket");
      await mkdir(empty);
      this.#registry = await startRemote(unlimited, empty, { [IMAGE_IN_REGISTRY]: this.#image.directory });
      this.#ending.push(this.#registry.stop);
    }
    const behind = [this.#bucket.address, ...(this.#registry === undefined ? [] : [this.#registry.address])];
    this.#link = await startLink(
      tools,
      FIRST_BYTE_MS,
      { node: this.#node.bitsPerSecond },
      behind.map((to) => ({ to, rates: ["node"] })),
    );
    this.#ending.push(this.#link.stop);
    this.#pilotlight = await Pilotlight.open({
      bucket: this.#bucket,
      linked: this.#link.addresses[0] ?? "",
      scratch: this.#scratch,
      memory: this.#memory,
      image,
      bootMs: this.#bootMs,
      wireBytes: async () => (await this.#link.bytes())[0] ?? 0,
    });
    this.#ending.push(() => this.#pilotlight.close());
  }

  async close(): Promise<void> {
    for (let end = this.#ending.pop(); end !== undefined; end = this.#ending.pop()) await end();
  }

  async result(): Promise<Figures> {
    const containerd = await findContainerd().catch(() => undefined);
    return {
      bench: "scaleup",
      targets: TARGETS,
      figures: this.#figures,
      notes: this.#notes,
      versions: { containerd: containerd?.version ?? "not there", runc: versionOf("runc", ["--version"]) },
    };
  }

  get #bootMs(): number {
    return this.#smoke ? SMOKE_BOOT_MS : NODE_BOOT_MS;
  }

  /** Both sides in turn with one model. */
  async compare(part: ModelName, rounds: number): Promise<void> {
    const model = await this.#bucket.add(part, MODELS[this.#smoke ? "smoke" : "full"][part]);
    log(`${part}: ${(model.bytes / 1e9).toFixed(2)} GB in ${model.files.length} files; first deployment`);
    const application = await this.#pilotlight.deploy(`bench-${part}`, model.bytes);
    const ours: OurStart[] = [];
    const baseline: Start[] = [];
    for (let round = 1; round <= rounds; round++) {
      const our = await this.#ours(application);
      log(`${part}, round ${round}: Pilotlight ${inOneLine(our)}`);
      ours.push(our);
      const other = await this.#baseline(model);
      if (other === undefined) continue;
      log(`${part}, round ${round}: baseline ${inOneLine(other)}`);
      baseline.push(other);
      // The same engine and prompt: another value would mean other weights.
      if (Math.abs(other.logprob - our.logprob) > LOGPROB_TOLERANCE)
        throw new Error(`the sides' first tokens differ: ${our.logprob} and ${other.logprob}`);
    }
    await this.#bucket.remove(part);
    this.#report(part, model, ours, baseline);
    await this.#draw(part, middle(ours), middle(baseline));
  }

  #report(part: ModelName, model: BenchModel, ours: readonly OurStart[], baseline: readonly Start[]): void {
    const ms = median(ours.map((start) => start.ms));
    const imageBytes = median(ours.map(({ wireBytes }) => wireBytes)) - model.bytes;
    const moved = Math.max(model.bytes, imageBytes);
    const floorMs = this.#bootMs + (moved * 8 * 1000) / this.#node.bitsPerSecond;
    const over = ms / floorMs;
    const worst = this.#figures["scaleup.over_floor"] ?? 0;
    const shown = (value: number) => `${(value / 1000).toFixed(2)} s`;
    const note = `${part}: Pilotlight ${shown(ms)}, floor ${shown(floorMs)}, ${(model.bytes / 1e9).toFixed(2)} GB of weights and ${(imageBytes / 1e6).toFixed(0)} MB of the image moved`;
    if (over >= worst) {
      this.#figures["scaleup.over_floor"] = over;
      this.#notes["scaleup.over_floor"] = note;
    }
    const key = `scaleup.speedup_${part.replace(/-full$/, "")}`;
    if (baseline.length === 0) {
      this.#notes[key] = `${note}; the baseline needs containerd 2.1: PILOTLIGHT_BENCH_CONTAINERD`;
      return;
    }
    const baselineMs = median(baseline.map((start) => start.ms));
    this.#figures[key] = baselineMs / ms;
    this.#notes[key] = `${note}; baseline ${shown(baselineMs)}`;
  }

  async #draw(part: ModelName, ours: Start | undefined, baseline: Start | undefined): Promise<void> {
    const sides = {
      ...(baseline === undefined ? {} : { "containerd, AWS CLI": baseline }),
      ...(ours === undefined ? {} : { Pilotlight: ours }),
    };
    const spanMs = Math.max(...Object.values(sides).map(({ ms }) => ms));
    for (const [side, start] of Object.entries(sides)) {
      process.stdout.write(`\n${part}, ${side}: ${(start.ms / 1000).toFixed(2)} s\n`);
      for (const line of drawBars(start, spanMs)) process.stdout.write(`${line}\n`);
    }
    const directory = process.env.PILOTLIGHT_BENCH_DRAWINGS;
    if (directory === undefined) return;
    await mkdir(directory, { recursive: true });
    const file = join(directory, `scaleup-${part}.svg`);
    await writeFile(file, await drawSvg(`Scale-up from nothing, '${part}' at one tenth`, sides));
    log(`drawn: ${file}`);
  }

  async #ours(application: Sleeping): Promise<OurStart> {
    const diskBytes = DISK_ROOM_BYTES + 2 * (this.#image?.unpackedBytes ?? 0);
    return this.#onSettledNode(diskBytes, [], (directory) =>
      this.#pilotlight.scaleUp(application, directory),
    );
  }

  async #baseline(model: BenchModel): Promise<Start | undefined> {
    const image = this.#image;
    const found = await findContainerd().catch(() => undefined);
    if (image === undefined || found === undefined || process.env.PILOTLIGHT_BENCH_BASELINE === "0")
      return undefined;
    const diskBytes = DISK_ROOM_BYTES + image.layerBytes + 1.2 * image.unpackedBytes + model.bytes;
    return this.#onSettledNode(Math.ceil(diskBytes), [image.directory], (directory) =>
      baselineStart({
        programs: found.directory,
        directory,
        reference: `${this.#link.addresses[1]}/${IMAGE_IN_REGISTRY}:latest`,
        model: model.name,
        linked: this.#link.addresses[0] ?? "",
        env: this.#bucket.env,
        bootMs: this.#bootMs,
      }),
    );
  }

  #onSettledNode<T>(
    diskBytes: number,
    remoteFiles: readonly string[],
    work: (directory: string) => Promise<T>,
  ): Promise<T> {
    return onEmptyNode(this.#scratch, this.#node, diskBytes, remoteFiles, async (directory) => {
      if (!this.#smoke) await untilSettled();
      return work(directory);
    });
  }
}

/** Sums of the same products in another order. */
const LOGPROB_TOLERANCE = 1e-3;

const log = (line: string) => process.stderr.write(`  ${line}\n`);

/** The start whose time is the median of them. */
function middle<T extends Start>(starts: readonly T[]): T | undefined {
  return [...starts].sort((a, b) => a.ms - b.ms)[(starts.length - 1) >> 1];
}
