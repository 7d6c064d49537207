// Starts of container images: from an empty node to the first real work, by Pilotlight and by containerd, on nodes with limited
// links and disks; and what conversion, mounts and local reads cost. The images are real software (recipes.ts), made once.
//   PILOTLIGHT_BENCH_PARTS       of convert, mounts, reads, starts; default all
//   PILOTLIGHT_BENCH_IMAGES      of torch-6gb, vllm-13gb; default torch-6gb
//   PILOTLIGHT_BENCH_PROFILES    of eks, 1g, 8g; default all
//   PILOTLIGHT_BENCH_ROUNDS      default 3
//   PILOTLIGHT_BENCH_CONTAINERD  directory with the programs of containerd 2.1 or newer; default: of PATH
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Figures, median, versionOf } from "../src/report.ts";
import { findContainerd, type Snapshotter, startContainerd } from "./containerd.ts";
import { type Conversion, convert, profile } from "./conversion.ts";
import { cannotLimit, giveUp } from "./disk.ts";
import { localReads } from "./local-reads.ts";
import {
  NODE_PROFILES,
  type NodeProfile,
  type OurStart,
  onEmptyNode,
  ourStart,
  startRemote,
} from "./node.ts";
import { type ImageName, type PreparedImage, prepareImage } from "./recipes.ts";
import { TARGETS } from "./targets.ts";

/** Figures are named by the published sizes. */
const SIZE_NAMES: Partial<Record<ImageName, string>> = { "torch-6gb": "6gb", "vllm-13gb": "13gb" };
const LEARNING_STARTS = 2;
const MOUNTS = 20;
/** Disk of a node for our starts. */
const OUR_DISK_BYTES = 4e9;
/** containerd's holds layers and files; its EROFS snapshotter writes the files twice. */
const containerdDiskBytes = (layerBytes: number, unpackedBytes: number) =>
  Math.ceil(1e9 + layerBytes + 2.1 * unpackedBytes);
const SNAPSHOTTERS: readonly Snapshotter[] = ["overlayfs", "erofs"];

const chosen = <T extends string>(variable: string, all: readonly T[], usual: readonly T[] = all): T[] => {
  const names = process.env[variable]?.split(",");
  return names === undefined ? [...usual] : all.filter((name) => names.includes(name));
};
const log = (line: string) => process.stderr.write(`  ${line}\n`);

export async function run({ smoke }: { smoke: boolean }): Promise<Figures> {
  const scratch = await mkdtemp(join(tmpdir(), "bench-image-"));
  const interrupted = () =>
    void giveUp()
      .then(() => rm(scratch, { recursive: true, force: true }))
      .finally(() => process.exit(130));
  process.once("SIGINT", interrupted).once("SIGTERM", interrupted);
  const bench = new ImageBench(scratch, smoke);
  try {
    await bench.run();
    return await bench.result();
  } finally {
    process.off("SIGINT", interrupted).off("SIGTERM", interrupted);
    await rm(scratch, { recursive: true, force: true });
  }
}

class ImageBench {
  readonly #scratch: string;
  readonly #smoke: boolean;
  readonly #figures: Record<string, number | null> = Object.fromEntries(
    Object.keys(TARGETS).map((key) => [key, null]),
  );
  readonly #notes: Record<string, string> = {};
  readonly #conversions = new Map<ImageName, Conversion & { image: PreparedImage; bucketDir: string }>();

  constructor(scratch: string, smoke: boolean) {
    this.#scratch = scratch;
    this.#smoke = smoke;
  }

  async run(): Promise<void> {
    const parts = chosen("PILOTLIGHT_BENCH_PARTS", ["convert", "mounts", "reads", "starts"]);
    const large: readonly ImageName[] = this.#smoke
      ? ["tiny"]
      : chosen("PILOTLIGHT_BENCH_IMAGES", ["torch-6gb", "vllm-13gb"], ["torch-6gb"]);
    const small: ImageName = this.#smoke ? "tiny" : "node-1gb";
    if (parts.includes("convert")) await this.#convert(large, small);
    if (parts.includes("mounts")) await this.#mounts(small);
    if (parts.includes("reads")) await this.#reads(small);
    if (!parts.includes("starts")) return;
    for (const name of large) for (const node of this.#nodes()) await this.#starts(name, node);
  }

  async result(): Promise<Figures> {
    const containerd = await findContainerd();
    return {
      bench: "image",
      targets: TARGETS,
      figures: this.#figures,
      notes: this.#notes,
      versions: { containerd: containerd?.version ?? "not there", runc: versionOf("runc", ["--version"]) },
    };
  }

  get #rounds(): number {
    return this.#smoke ? 1 : Number(process.env.PILOTLIGHT_BENCH_ROUNDS ?? 3);
  }

  #nodes(): NodeProfile[] {
    const why = cannotLimit();
    if (this.#smoke)
      return [why === undefined ? NODE_PROFILES.eks : { ...NODE_PROFILES.eks, disk: undefined }];
    const names = chosen("PILOTLIGHT_BENCH_PROFILES", ["eks", "1g", "8g"]);
    return names
      .map((name) => NODE_PROFILES[name])
      .filter(({ disk }) => disk === undefined || why === undefined);
  }

  #set(key: string, value: number, note: string): void {
    this.#figures[`image.${key}`] = value;
    this.#notes[`image.${key}`] = note;
    log(`${key} ${value.toFixed(3)} (${note})`);
  }

  /** The image in a bucket of its own, with what its starts touch; done once a run. */
  async #converted(name: ImageName) {
    const known = this.#conversions.get(name);
    if (known !== undefined) return known;
    const image = await prepareImage(name, log);
    const bucketDir = join(this.#scratch, `bucket-${name}`);
    await mkdir(bucketDir);
    const conversion = await convert(image.reference, bucketDir);
    for (let i = 0; i < LEARNING_STARTS; i++) await profile(conversion.manifestDigest, bucketDir);
    const converted = { ...conversion, image, bucketDir };
    this.#conversions.set(name, converted);
    return converted;
  }

  async #convert(large: readonly ImageName[], small: ImageName): Promise<void> {
    for (const name of large) {
      const { contentBytes, seconds, peakRssMb } = await this.#converted(name);
      const note = `${name}: ${(contentBytes / 1e9).toFixed(2)} GB in ${seconds.toFixed(1)} s`;
      // The largest one comes last, and counts.
      this.#set("convert_mb_s", contentBytes / 1e6 / seconds, note);
      this.#set("convert_peak_rss_mb", peakRssMb, name);
    }
    const first = await this.#converted(small);
    const next = await convert(first.image.reference.replace(/:latest$/, ":next"), first.bucketDir);
    const mb = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;
    const note = `${small}: ${mb(next.uploadedBytes)} after ${mb(first.uploadedBytes)}`;
    this.#set("second_version_upload_percent", (next.uploadedBytes / first.uploadedBytes) * 100, note);
  }

  async #mounts(name: ImageName): Promise<void> {
    // The same starts on both sides: each may touch something that the others did not.
    const fetched = async (mounts: number) =>
      (await this.#ours(name, NODE_PROFILES["8g"], mounts, MOUNTS)).sentBytes;
    const one = await fetched(1);
    const all = await fetched(MOUNTS);
    const note = `${name}, ${MOUNTS} starts: ${(all / 1e6).toFixed(2)} MB over ${(one / 1e6).toFixed(2)} MB`;
    this.#set("bytes_fetched_20_mounts_ratio", all / one, note);
  }

  async #reads(name: ImageName): Promise<void> {
    const { bucketDir, manifestDigest } = await this.#converted(name);
    const directory = await mkdtemp(join(this.#scratch, "reads-"));
    const reads = await localReads(directory, bucketDir, manifestDigest, this.#rounds);
    await rm(directory, { recursive: true });
    this.#set("local_seq_read_ratio", reads.sequentialRatio, reads.note);
    this.#set("local_rand_read_ratio", reads.randomRatio, reads.note);
  }

  async #starts(name: ImageName, node: NodeProfile): Promise<void> {
    const ours: OurStart[] = [];
    const peers = new Map<Snapshotter, number[]>(SNAPSHOTTERS.map((snapshotter) => [snapshotter, []]));
    for (let round = 1; round <= this.#rounds; round++) {
      for (const [snapshotter, times] of peers) {
        const our = await this.#ours(name, node, 1, 2);
        log(`${name}, ${node.name}, round ${round}: Pilotlight ${JSON.stringify(our)}`);
        ours.push(our);
        const start = await this.#containerd(name, node, snapshotter).catch((error: Error) => {
          // A peer that fails loses nothing but its row.
          log(`containerd with ${snapshotter} failed: ${error.message}`);
        });
        if (start === undefined) continue;
        log(`${name}, ${node.name}, round ${round}: containerd with ${snapshotter} ${JSON.stringify(start)}`);
        times.push(start.ms);
      }
    }
    const ms = median(ours.map((start) => start.firstMs));
    const floorMs = median(
      ours.map(({ fetchedBytes, againMs }) => (fetchedBytes * 8 * 1000) / node.bitsPerSecond + againMs),
    );
    const size = SIZE_NAMES[name] ?? name;
    const fetched = median(ours.map(({ fetchedBytes }) => fetchedBytes));
    const own = `Pilotlight ${(ms / 1000).toFixed(2)} s, ${(fetched / 1e6).toFixed(0)} MB fetched, floor ${(floorMs / 1000).toFixed(2)} s`;
    const measured = [...peers].filter(([, times]) => times.length > 0);
    const best = Math.min(...measured.map(([, times]) => median(times)));
    const shown = measured.map(
      ([peer, times]) => `containerd with ${peer} ${(median(times) / 1000).toFixed(1)} s`,
    );
    const speedup = `speedup_containerd_${size}_${node.name}`;
    if (measured.length > 0) this.#set(speedup, best / ms, `${own}; ${shown.join(", ")}`);
    else this.#notes[`image.${speedup}`] = `${own}; containerd 2.1 is not there: PILOTLIGHT_BENCH_CONTAINERD`;
    if (node.name === "1g") this.#set(`over_floor_${size}_1g`, ms / floorMs, own);
  }

  /** Starts on an empty node, with what the bucket sent. */
  async #ours(
    name: ImageName,
    node: NodeProfile,
    mounts: number,
    starts: number,
  ): Promise<OurStart & { sentBytes: number }> {
    const { bucketDir, manifestDigest } = await this.#converted(name);
    const remote = await startRemote(node, bucketDir, {});
    try {
      const served = ["images", "hot", "packs"].map((part) => join(bucketDir, part));
      return await onEmptyNode(this.#scratch, node, OUR_DISK_BYTES, served, async (directory) => {
        const start = await ourStart(directory, remote, manifestDigest, mounts, starts);
        return { ...start, sentBytes: (await remote.counted()).bytes };
      });
    } finally {
      await remote.stop();
    }
  }

  async #containerd(name: ImageName, node: NodeProfile, snapshotter: Snapshotter) {
    const found = await findContainerd();
    if (found === undefined) return undefined;
    const { image, bucketDir } = await this.#converted(name);
    const remote = await startRemote(node, bucketDir, { [name]: image.directory });
    const diskBytes = containerdDiskBytes(image.layerBytes, image.unpackedBytes);
    try {
      return await onEmptyNode(this.#scratch, node, diskBytes, [image.directory], async (directory) => {
        const daemon = await startContainerd(found.directory, directory);
        try {
          return await daemon.start(`${remote.address}/${name}:latest`, snapshotter);
        } finally {
          await daemon.stop();
        }
      });
    } finally {
      await remote.stop();
    }
  }
}
