// The snapshots of one containerd: what containerd calls a snapshotter, with its rules (core/snapshots of containerd).
// A layer of a converted image is a committed snapshot without files of its own, that stands for the root after it; the one of
// the topmost layer is the whole image, mounted once. All other layers are unpacked by containerd into directories and
// stacked by overlayfs.
//   S1. Keys are unique over all kinds; only committed snapshots have children; what has children stays.
//   S2. Directories before records when something is made, records before directories when it goes: a killed process leaves
//       at most a directory that nobody knows, and `open` and `cleanup` remove those.
//   S3. Changes happen one after the other; mounting, counting and removing of files happens outside of that.
import { access, chown, mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { counter, logger } from "@pilotlight/telemetry";
import type { Conversions } from "./conversions.ts";
import { parseFilters } from "./filters.ts";
import type { ImageRoots } from "./image-roots.ts";
import { SNAPSHOT_REF_LABEL, wantedLayerOf } from "./labels.ts";
import { mountPoints } from "./mount-table.ts";
import { type ContainerdMount, mountsOf } from "./mounts.ts";
import type { ImageContent, SnapshotRecord, SnapshotUsage } from "./record.ts";
import { openRecords, type SnapshotRecords } from "./records.ts";
import { Serial } from "./serial.ts";
import { usageOf } from "./usage.ts";
import { wallClock } from "./wall-clock.ts";

type Labels = Record<string, string>;

/** What the snapshotter needs of converted images. */
export type Roots = Pick<ImageRoots, "find" | "with" | "started" | "diskBytes" | "tidy">;

export type SnapshotterOptions = {
  /** For records and files; on a file system that overlayfs can write to. Absolute. */
  directory: string;
  roots: Roots;
  conversions: Conversions;
};

const ROOT_MODE = 0o755;
const WORK_MODE = 0o711;
const NO_USAGE: SnapshotUsage = { bytes: 0, inodes: 0 };
/** There where overlayfs knows the option; without it a lower directory could not be used twice where it is on by default. */
const OVERLAY_INDEX = "/sys/module/overlay/parameters/index";

const layers = counter({
  name: "pilotlight_snapshotter_layers_total",
  help: "Layers that containerd asked for, by where their content comes from.",
  labelNames: ["source"],
});

const recordsIn = (directory: string) => join(directory, "records");

/** How many snapshots a containerd has in this directory. */
export async function countSnapshots(directory: string): Promise<number> {
  return [...(await openRecords(recordsIn(directory))).all()].length;
}

export class Snapshotter {
  readonly #directory: string;
  readonly #records: SnapshotRecords;
  readonly #roots: Roots;
  readonly #conversions: Conversions;
  readonly #overlayOptions: readonly string[];
  readonly #changes = new Serial();
  readonly #now = wallClock();
  readonly #log = logger("snapshotter");
  #lastId: number;

  private constructor(
    options: SnapshotterOptions,
    records: SnapshotRecords,
    lastId: number,
    overlayOptions: readonly string[],
  ) {
    this.#directory = join(options.directory, "snapshots");
    this.#roots = options.roots;
    this.#conversions = options.conversions;
    this.#records = records;
    this.#lastId = lastId;
    this.#overlayOptions = overlayOptions;
  }

  /** Opens what is there, whoever left it in whatever state. */
  static async open(options: SnapshotterOptions): Promise<Snapshotter> {
    const records = await openRecords(recordsIn(options.directory));
    const directory = join(options.directory, "snapshots");
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const ids = (await readdir(directory)).map(Number).filter(Number.isSafeInteger);
    for (const { id } of records.all()) ids.push(id);
    const lastId = ids.reduce((last, id) => Math.max(last, id), 0);
    const index = await access(OVERLAY_INDEX).then(
      () => ["index=off"],
      () => [],
    );
    const snapshotter = new Snapshotter(options, records, lastId, index);
    await snapshotter.cleanup();
    return snapshotter;
  }

  /**
   * Makes an active snapshot. Throws `alreadyExists` too where the labels name a layer of a converted image: then there is
   * a committed snapshot of it, and containerd need not fetch the layer.
   */
  async prepare(key: string, parent: string, labels: Labels): Promise<ContainerdMount[]> {
    const wanted = wantedLayerOf(labels);
    if (wanted !== undefined) {
      const content = await this.#roots.find(wanted);
      layers.inc({ source: content === undefined ? "fetched" : "converted" });
      if (content !== undefined) return this.#promise(wanted.chainId, parent, labels, content);
      const { reference, manifestDigest } = wanted;
      if (manifestDigest !== undefined) this.#conversions.want({ reference, manifestDigest });
    }
    const mounts = await this.#create("active", key, parent, labels);
    const below = this.#records.get(parent)?.content;
    if (below?.kind === "image" && labels[SNAPSHOT_REF_LABEL] === undefined) this.#roots.started(below);
    return mounts;
  }

  view(key: string, parent: string, labels: Labels): Promise<ContainerdMount[]> {
    return this.#create("view", key, parent, labels);
  }

  /** The mounts of an active snapshot or a view, for a later time. */
  async mounts(key: string): Promise<ContainerdMount[]> {
    const record = this.#known(key);
    const { kind } = record;
    if (kind === "committed")
      throw new PlatformError("preconditionFailed", `snapshot ${key} is committed: it has no mounts`);
    return this.#withLowers(record.parent, async (lowers) => this.#mountsOf(kind, record.id, lowers));
  }

  /** Turns an active snapshot into a committed one with other labels. `parent`: for one that has none yet. */
  async commit(name: string, key: string, labels: Labels, parent: string): Promise<void> {
    const usage = await usageOf(this.#files(this.#known(key).id));
    await this.#changes.run(async () => {
      if (this.#records.get(name) !== undefined) throw exists(name);
      const record = this.#known(key);
      if (record.kind !== "active")
        throw new PlatformError("preconditionFailed", `snapshot ${key} is not active`);
      if (parent !== "" && record.parent !== "" && parent !== record.parent)
        throw new PlatformError("invalidArgument", `the parent of snapshot ${key} cannot be changed`, {
          field: "parent",
        });
      const base = record.parent === "" ? parent : record.parent;
      this.#checkParent(base);
      const now = this.#now();
      const committed = {
        kind: "committed",
        key: name,
        parent: base,
        createdAt: now,
        updatedAt: now,
      } as const;
      await this.#records.save({ ...record, ...committed, labels, usage }, key);
    });
  }

  /** Removes a snapshot; its files go, and its image is unmounted if nothing else stands on it. */
  async remove(key: string): Promise<void> {
    const record = await this.#changes.run(async () => {
      const known = this.#known(key);
      if (this.#records.hasChildren(key))
        throw new PlatformError("preconditionFailed", `cannot remove snapshot ${key}: others stand on it`, {
          remedy: "Remove those first.",
        });
      await this.#records.remove(known);
      return known;
    });
    await this.#removeFiles(String(record.id));
    const below = this.#records.get(record.parent)?.content;
    if (record.content.kind === "image" || below?.kind === "image") await this.#tidy();
  }

  stat(key: string): SnapshotRecord {
    return this.#known(key);
  }

  /** Changes labels, the only thing that can be changed. `paths`: `labels`, `labels.<name>`; none: all labels. */
  update(key: string, labels: Labels, paths: readonly string[]): Promise<SnapshotRecord> {
    return this.#changes.run(async () => {
      const record = this.#known(key);
      const changed = { ...record, labels: updatedLabels(record, labels, paths), updatedAt: this.#now() };
      await this.#records.save(changed);
      return changed;
    });
  }

  /** Snapshots that match one of containerd's filters. Throws `invalidArgument` for a filter that is none. */
  list(filters: readonly string[]): SnapshotRecord[] {
    const matches = parseFilters(filters);
    return [...this.#records.all()].filter((record) => matches((path) => fieldOf(record, path)));
  }

  /** What the snapshot itself takes on the disk. Of an image: what is here of it by now. */
  async usage(key: string, signal?: AbortSignal): Promise<SnapshotUsage> {
    const { kind, content, id, usage } = this.#known(key);
    if (content.kind === "image") {
      if (content.layers < content.layersTotal) return NO_USAGE;
      return { bytes: await this.#roots.diskBytes(content), inodes: 0 };
    }
    return kind === "active" ? usageOf(this.#files(id), signal) : usage;
  }

  /** Removes what no snapshot needs: directories that an interrupted call left, mounts of images. */
  async cleanup(): Promise<void> {
    const unknown = await this.#changes.run(async () =>
      (await readdir(this.#directory)).filter((name) => !this.#records.hasId(Number(name))),
    );
    for (const name of unknown) await this.#removeFiles(name);
    await this.#tidy();
  }

  /** The images that snapshots stand on. */
  images(): ImageContent[] {
    return [...this.#records.all()].flatMap(({ content }) => (content.kind === "image" ? content : []));
  }

  async #create(
    kind: "active" | "view",
    key: string,
    parent: string,
    labels: Labels,
  ): Promise<ContainerdMount[]> {
    if (key === "") throw new PlatformError("invalidArgument", "a snapshot needs a key", { field: "key" });
    return this.#withLowers(parent, (lowers) =>
      this.#changes.run(async () => {
        if (this.#records.get(key) !== undefined) throw exists(key);
        this.#checkParent(parent);
        const id = ++this.#lastId;
        const now = this.#now();
        const record: SnapshotRecord = {
          id,
          key,
          parent,
          kind,
          labels,
          createdAt: now,
          updatedAt: now,
          content: { kind: "files" },
          usage: NO_USAGE,
        };
        try {
          await this.#makeDirectory(id, lowers[0]);
          await this.#records.save(record);
        } catch (error) {
          await this.#removeFiles(String(id));
          throw error;
        }
        return this.#mountsOf(kind, id, lowers);
      }),
    );
  }

  /** Commits a layer of a converted image, unless it is there, and says so in containerd's way: by an error. */
  async #promise(chainId: string, parent: string, labels: Labels, content: ImageContent): Promise<never> {
    await this.#changes.run(async () => {
      this.#checkParent(parent);
      const same = (record: SnapshotRecord) =>
        record.content.kind === "image" &&
        record.parent === parent &&
        record.labels[SNAPSHOT_REF_LABEL] === chainId;
      if ([...this.#records.all()].some(same)) return;
      const id = ++this.#lastId;
      const now = this.#now();
      // The same layer can stand on two parents: one that was unpacked, one that was not. So the ID is part of its key.
      const key = `image/${id}/${chainId}`;
      const times = { createdAt: now, updatedAt: now };
      await this.#records.save({
        id,
        key,
        parent,
        kind: "committed",
        labels,
        ...times,
        content,
        usage: NO_USAGE,
      });
    });
    throw new PlatformError("alreadyExists", `the layer ${chainId} comes from the converted image`);
  }

  /** Hands the directories below a snapshot to `use`, the nearest first; images stay mounted at least until it ends. */
  async #withLowers<T>(parent: string, use: (lowers: string[]) => Promise<T>): Promise<T> {
    this.#checkParent(parent);
    const lowers: string[] = [];
    for (let at = parent; at !== ""; ) {
      const record = this.#known(at);
      if (record.content.kind === "image")
        return this.#roots.with(record.content, (root) => use([...lowers, root]));
      lowers.push(this.#files(record.id));
      at = record.parent;
    }
    return use(lowers);
  }

  async #makeDirectory(id: number, lower: string | undefined): Promise<void> {
    const files = this.#files(id);
    await mkdir(join(this.#directory, String(id)), { mode: 0o700 });
    await mkdir(files, { mode: ROOT_MODE });
    await mkdir(this.#work(id), { mode: WORK_MODE });
    if (lower === undefined) return;
    const { uid, gid } = await stat(lower);
    await chown(files, uid, gid);
  }

  /** Never through a mount: what is mounted below belongs to somebody, and goes later. */
  async #removeFiles(name: string): Promise<void> {
    const path = join(this.#directory, name);
    try {
      for (const point of await mountPoints())
        if (point.startsWith(`${path}/`))
          throw new PlatformError("conflict", `${point} is mounted`, { remedy: `umount ${point}` });
      await rm(path, { recursive: true, force: true });
    } catch (error) {
      this.#log.warn("the files of a removed snapshot are left for later", {
        path,
        error: toPlatformError(error),
      });
    }
  }

  #tidy(): Promise<void> {
    return this.#roots.tidy(() => this.#neededImages());
  }

  *#neededImages(): Generator<ImageContent> {
    for (const { content, parent } of this.#records.all()) {
      if (content.kind === "image" && content.layers === content.layersTotal) yield content;
      const below = content.kind === "files" ? this.#records.get(parent)?.content : undefined;
      if (below?.kind === "image") yield below;
    }
  }

  #mountsOf(kind: "active" | "view", id: number, lowers: readonly string[]): ContainerdMount[] {
    return mountsOf(kind, { upper: this.#files(id), work: this.#work(id), lowers }, this.#overlayOptions);
  }

  #files(id: number): string {
    return join(this.#directory, String(id), "fs");
  }

  #work(id: number): string {
    return join(this.#directory, String(id), "work");
  }

  #known(key: string): SnapshotRecord {
    const record = this.#records.get(key);
    if (record === undefined) throw new PlatformError("notFound", `snapshot ${key} does not exist`);
    return record;
  }

  #checkParent(parent: string): void {
    if (parent !== "" && this.#known(parent).kind !== "committed")
      throw new PlatformError("invalidArgument", `the parent ${parent} is not committed`, {
        field: "parent",
      });
  }
}

const exists = (key: string) => new PlatformError("alreadyExists", `snapshot ${key} exists already`);

function updatedLabels({ key, labels }: SnapshotRecord, wanted: Labels, paths: readonly string[]): Labels {
  if (paths.length === 0) return wanted;
  let updated = { ...labels };
  for (const path of paths) {
    const name = /^labels\.(.+)$/s.exec(path)?.[1];
    if (path === "labels") updated = { ...wanted };
    else if (name === undefined)
      throw new PlatformError("invalidArgument", `'${path}' of snapshot ${key} cannot be changed`, {
        field: "updateMask",
      });
    else if (wanted[name] === undefined || wanted[name] === "") delete updated[name];
    else updated[name] = wanted[name];
  }
  return updated;
}

function fieldOf(record: SnapshotRecord, path: readonly string[]): string | undefined {
  const [field, ...rest] = path;
  if (field === "labels") return record.labels[rest.join(".")];
  if (field === "kind") return record.kind;
  if (field === "name") return record.key;
  return field === "parent" ? record.parent : undefined;
}
