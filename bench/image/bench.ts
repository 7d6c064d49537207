// Starts of container images: from an empty node to the first real work, by Pilotlight and by others, on nodes with limited links
// and disks; and what conversion, versions, mass starts, mounts and local reads cost. The images are real software (recipes.ts),
// made once, as is what our side and the peers make of them (prepared.ts): a run measures only. `npm run bench -- --help` has the
// flags that choose parts, images, nodes and peers; what was not measured is null, with a note that says why.
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { inFolders } from "../src/folders.ts";
import { type Figures, median, type RunOptions, versionOf } from "../src/report.ts";
import { convert } from "./conversion.ts";
import { cannotLimit, freeBytes } from "./disk.ts";
import { localReads } from "./local-reads.ts";
import { massStart, type NodeResult } from "./mass-start.ts";
import {
  NODE_PROFILES,
  type NodeProfile,
  type OurStart,
  onEmptyNode,
  ourStart,
  startRemote,
} from "./node.ts";
import { PEERS, type PeerName, type PeerStart } from "./peers.ts";
import { type PreparedBucket, prepareBucket } from "./prepared.ts";
import { type ImageName, prepareImage } from "./recipes.ts";
import { TARGETS } from "./targets.ts";

/** Figures are named by the published sizes. */
const SIZE_NAMES: Partial<Record<ImageName, string>> = { "torch-6gb": "6gb", "vllm-13gb": "13gb" };
const FOLDERS_PREFIX = "bench-image-";
const MOUNTS = 20;
const MASS_START = { nodes: 5, starts: 100 };
const SMOKE_MASS_START = { nodes: 3, starts: 6 };
/** Disk of a node for our starts. */
const OUR_DISK_BYTES = 4e9;
const PARTS = ["convert", "versions", "mounts", "mass", "reads", "starts"] as const;
const LARGE: readonly ImageName[] = ["torch-6gb", "vllm-13gb"];
const NODES = ["eks", "1g", "8g"] as const;

/** Those of `all` that were asked for; a name that nobody knows is a mistake. */
function chosen<T extends string>(
  what: string,
  asked: readonly string[] | undefined,
  all: readonly T[],
  usual = all,
): T[] {
  const unknown = asked?.find((name) => !all.some((known) => known === name));
  if (unknown !== undefined) throw new Error(`no ${what} is called ${unknown}: ${all.join(", ")}`);
  return asked === undefined ? [...usual] : all.filter((name) => asked.includes(name));
}
const log = (line: string) => process.stderr.write(`  ${line}\n`);

export async function run(options: RunOptions): Promise<Figures> {
  const nothingElse = async () => {};
  return inFolders(FOLDERS_PREFIX, nothingElse, async ({ scratch }) => {
    const bench = new ImageBench(scratch, options);
    await bench.run();
    return bench.result();
  });
}

class ImageBench {
  readonly #scratch: string;
  readonly #options: RunOptions;
  readonly #figures: Record<string, number | null> = Object.fromEntries(
    Object.keys(TARGETS).map((key) => [key, null]),
  );
  readonly #notes: Record<string, string> = {};
  readonly #buckets = new Map<ImageName, PreparedBucket>();

  constructor(scratch: string, options: RunOptions) {
    this.#scratch = scratch;
    this.#options = options;
  }

  async run(): Promise<void> {
    const parts = chosen("part", this.#options.parts, PARTS);
    const smoke = this.#options.smoke;
    const large: readonly ImageName[] = smoke ? ["tiny"] : chosen("image", this.#options.images, LARGE);
    const small: ImageName = smoke ? "tiny" : "node-1gb";
    if (parts.includes("convert")) for (const name of large) await this.#convert(name);
    if (parts.includes("versions")) await this.#versions(small);
    if (parts.includes("mounts")) await this.#mounts(small);
    if (parts.includes("mass")) await this.#massStart(small);
    if (parts.includes("reads")) await this.#reads(small);
    if (!parts.includes("starts")) return;
    for (const name of large) for (const node of this.#nodes()) await this.#starts(name, node);
  }

  async result(): Promise<Figures> {
    const versions: Record<string, string> = { runc: versionOf("runc", ["--version"]) };
    for (const peer of this.#peers())
      versions[peer] = await PEERS[peer].find().then(
        ({ version }) => version,
        (error: Error) => error.message,
      );
    for (const [key, value] of Object.entries(this.#figures))
      if (value === null) this.#notes[key] ??= "not part of this run";
    return { bench: "image", targets: TARGETS, figures: this.#figures, notes: this.#notes, versions };
  }

  get #rounds(): number {
    return this.#options.smoke ? 1 : (this.#options.rounds ?? 3);
  }

  #peers(): PeerName[] {
    const all = Object.keys(PEERS) as PeerName[];
    const asked = this.#options.peers?.filter((name) => name !== "none");
    return chosen("peer", this.#options.smoke ? (asked ?? ["containerd-overlayfs"]) : asked, all);
  }

  #nodes(): NodeProfile[] {
    const why = cannotLimit();
    if (this.#options.smoke)
      return [why === undefined ? NODE_PROFILES.eks : { ...NODE_PROFILES.eks, disk: undefined }];
    return chosen("profile", this.#options.profiles, NODES)
      .map((name) => NODE_PROFILES[name])
      .filter(({ disk, name }) => {
        const can = disk === undefined || why === undefined;
        if (!can) log(`profile ${name} is left out: its disk cannot be limited, ${why}`);
        return can;
      });
  }

  #set(key: string, value: number, note: string): void {
    this.#figures[`image.${key}`] = value;
    this.#notes[`image.${key}`] = note;
    log(`${key} ${value.toFixed(3)} (${note})`);
  }

  /** The image in a bucket of its own, with what its starts touch. */
  async #prepared(name: ImageName): Promise<PreparedBucket> {
    const prepared = this.#buckets.get(name) ?? (await prepareBucket(name, log));
    this.#buckets.set(name, prepared);
    return prepared;
  }

  async #convert(name: ImageName): Promise<void> {
    const image = await prepareImage(name, log);
    const bucketDir = await mkdtemp(join(this.#scratch, "bucket-"));
    const { contentBytes, seconds, cpuSeconds, peakRssMb } = await convert(image.reference, bucketDir);
    await rm(bucketDir, { recursive: true });
    const gb = contentBytes / 1e9;
    const note = `${name}: ${gb.toFixed(2)} GB in ${seconds.toFixed(1)} s, ${(cpuSeconds / gb).toFixed(1)} processor seconds per GB`;
    // The largest one comes last, and counts.
    this.#set("convert_mb_s", contentBytes / 1e6 / seconds, note);
    this.#set("convert_peak_rss_mb", peakRssMb, name);
  }

  /** What other versions of an image upload after the first one. */
  async #versions(name: ImageName): Promise<void> {
    const image = await prepareImage(name, log);
    const bucketDir = await mkdtemp(join(this.#scratch, "bucket-"));
    const first = await convert(image.reference, bucketDir);
    const mb = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;
    const percents: Record<string, number> = {};
    const shown: string[] = [];
    for (const version of image.versions.filter((version) => version !== "latest")) {
      const next = await convert(image.reference.replace(/:latest$/, `:${version}`), bucketDir);
      percents[version] = (next.uploadedBytes / first.uploadedBytes) * 100;
      shown.push(`${version} ${percents[version].toFixed(2)} % (${mb(next.uploadedBytes)})`);
    }
    await rm(bucketDir, { recursive: true });
    if (percents.replaced === undefined) return;
    const note = `${name}, 1 % of the content of whole packages: ${shown.join(", ")}, after ${mb(first.uploadedBytes)}`;
    this.#set("second_version_upload_percent", percents.replaced, note);
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

  /** Many starts on several nodes, against what one start reads from the bucket. */
  async #massStart(name: ImageName): Promise<void> {
    const mass = this.#options.smoke ? SMOKE_MASS_START : MASS_START;
    const node = NODE_PROFILES["8g"];
    const one = (await this.#ours(name, node, 1, 1)).sentBytes;
    const { bucketDir, manifestDigest } = await this.#prepared(name);
    const remote = await startRemote(node, bucketDir, {});
    try {
      const results = await onEmptyNode(this.#scratch, node, OUR_DISK_BYTES, [bucketDir], (directory) =>
        massStart(directory, remote, manifestDigest, mass),
      );
      const all = (await remote.counted()).bytes;
      const mb = (bytes: number) => (bytes / 1e6).toFixed(1);
      const sum = (of: (result: NodeResult) => number) =>
        results.reduce((total, result) => total + of(result), 0);
      const first = median(results.map(({ firstMs }) => firstMs));
      const last = Math.max(...results.map(({ lastMs }) => lastMs));
      const note =
        `${name}, ${mass.starts} starts on ${mass.nodes} nodes: ${mb(all)} MB from the bucket over ${mb(one)} MB for one start; ` +
        `${mb(sum(({ peerBytes }) => peerBytes))} MB (uncompressed) from other nodes, ${sum(({ hedges }) => hedges)} hedges; ` +
        `a node's first start ${(first / 1000).toFixed(2)} s, the last of all ${(last / 1000).toFixed(1)} s`;
      this.#set("mass_start_bucket_ratio", all / one, note);
    } finally {
      await remote.stop();
    }
  }

  async #reads(name: ImageName): Promise<void> {
    const { bucketDir, manifestDigest } = await this.#prepared(name);
    const directory = await mkdtemp(join(this.#scratch, "reads-"));
    const reads = await localReads(directory, bucketDir, manifestDigest, this.#rounds);
    await rm(directory, { recursive: true });
    this.#set("local_seq_read_ratio", reads.sequentialRatio, reads.note);
    this.#set("local_rand_read_ratio", reads.randomRatio, reads.note);
  }

  /** Our starts and those of the peers, in turns. */
  async #starts(name: ImageName, node: NodeProfile): Promise<void> {
    const peers = this.#peers();
    const ours: OurStart[] = [];
    const theirs = new Map<PeerName, PeerStart[]>(peers.map((peer) => [peer, []]));
    const failures = new Map<PeerName, string>();
    const row = `${name}, ${node.name}`;
    for (let round = 1; round <= this.#rounds; round++) {
      // With every peer one of ours: both sides meet the same machine.
      for (const peer of peers.length === 0 ? [undefined] : peers) {
        const our = await this.#ours(name, node, 1, 2);
        log(`${row}, round ${round}: Pilotlight ${JSON.stringify(our)}`);
        ours.push(our);
        if (peer === undefined || failures.has(peer)) continue;
        try {
          const start = await this.#peer(peer, name, node);
          log(`${row}, round ${round}: ${peer} ${JSON.stringify(start)}`);
          theirs.get(peer)?.push(start);
        } catch (error) {
          // A peer that fails loses nothing but its row.
          failures.set(peer, (error as Error).message.split("\n").slice(-3).join(" "));
          log(`${row}, round ${round}: ${peer} failed: ${(error as Error).message}`);
        }
      }
    }
    this.#report(name, node, ours, theirs, failures);
  }

  #report(
    name: ImageName,
    node: NodeProfile,
    ours: readonly OurStart[],
    theirs: ReadonlyMap<PeerName, readonly PeerStart[]>,
    failures: ReadonlyMap<PeerName, string>,
  ): void {
    const size = SIZE_NAMES[name] ?? name;
    const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;
    const of = (key: "firstMs" | "againMs" | "fetchedBytes" | "diskWrittenBytes" | "cpuMs") =>
      median(ours.map((start) => start[key]));
    const ms = of("firstMs");
    const floorMs = median(
      ours.map(({ fetchedBytes, againMs }) => (fetchedBytes * 8 * 1000) / node.bitsPerSecond + againMs),
    );
    const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
    const own =
      `Pilotlight ${seconds(ms)}, ${mb(of("fetchedBytes"))} fetched, ${mb(of("diskWrittenBytes"))} written to the disk, ` +
      `${seconds(of("cpuMs"))} of both cores, the same work all local ${seconds(of("againMs"))}, floor ${seconds(floorMs)}`;
    for (const kind of ["containerd", "estargz"] as const) {
      const key = `speedup_${kind}_${size}_${node.name}`;
      const rows = [...theirs].filter(([peer]) => PEERS[peer].kind === kind);
      const measured = rows.filter(([, starts]) => starts.length > 0);
      const shown = measured.map(
        ([peer, starts]) => `${peer} ${seconds(median(starts.map((start) => start.ms)))}`,
      );
      const failed = rows.flatMap(([peer]) =>
        failures.has(peer) ? [`${peer} failed: ${failures.get(peer)}`] : [],
      );
      const note = [own, ...shown, ...failed].join("; ");
      const best = Math.min(...measured.map(([, starts]) => median(starts.map((start) => start.ms))));
      if (measured.length > 0) this.#set(key, best / ms, note);
      else if (`image.${key}` in TARGETS || this.#options.smoke) this.#notes[`image.${key}`] = note;
    }
    if (`image.over_floor_${size}_${node.name}` in TARGETS)
      this.#set(`over_floor_${size}_${node.name}`, ms / floorMs, own);
  }

  /** Starts on an empty node, with what the bucket sent. */
  async #ours(
    name: ImageName,
    node: NodeProfile,
    mounts: number,
    starts: number,
  ): Promise<OurStart & { sentBytes: number }> {
    const { bucketDir, manifestDigest } = await this.#prepared(name);
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

  async #peer(peer: PeerName, name: ImageName, node: NodeProfile): Promise<PeerStart> {
    const { find, diskBytes, layout, start } = PEERS[peer];
    const { directory: programs } = await find();
    const image = await prepareImage(name, log);
    const served = await layout(name, image, log);
    const needed = diskBytes(image);
    const free = await freeBytes(this.#scratch);
    if (needed > free)
      throw new Error(
        `needs ${(needed / 1e9).toFixed(0)} GB of free disk; there are ${(free / 1e9).toFixed(0)}`,
      );
    const remote = await startRemote(node, this.#scratch, { [name]: served });
    try {
      return await onEmptyNode(this.#scratch, node, needed, [served], (directory) =>
        start({ programs, directory, registry: remote.address, name }),
      );
    } finally {
      await remote.stop();
    }
  }
}
