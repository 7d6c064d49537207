// Segments as files: in shared memory first (in memory that was made ready ahead, where that is asked for), on disk where that
// is too small, and for sources that are files on the same file system without any copy, as another name (hard link) of the
// source's own file. Directories belong to one streamer at a time; what a killed one left is removed when the next one starts.
import {
  chownSync,
  createReadStream,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statfsSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import type { Mover } from "@pilotlight/streamer";
import { bytesInOneFile, FileSet, nothing, type Place } from "./file-set.ts";
import { hasHugePages } from "./huge-memory.ts";
import type { PlaceUsage, Segment, SegmentMaker, SegmentSet } from "./ports.ts";
import type { Repository, WeightFile } from "./repository.ts";
import { type SpareMemory, SpareShelf, type SpareSource } from "./spare-memory.ts";

export type SegmentPlace = {
  /** Created with mode 0750; nothing else may be kept in it. */
  directory: string;
  /** Limit for all segments there; 0 turns the place off. */
  bytesMax: number;
};

export type SegmentFilesOptions = {
  /** Shared memory, usually /dev/shm/pilotlight-<user>/<node>. */
  memory: SegmentPlace;
  disk: SegmentPlace;
  /** Left free on each file system. */
  reserveBytes: number;
  /** Group that may map the segments: that of the workers. Only root can give files to a group; undefined: nobody else. */
  readerGroupId?: number | undefined;
  /** Receives bytes in place where shared memory has huge pages; small ones cost more to make than the copy that this saves. */
  mover?: Pick<Mover, "map"> | undefined;
  /** Shared memory made ready for the next load; absent: each load has its own allocated as it goes. */
  spare?: SpareSource | undefined;
  /** Told when weights do not fit into shared memory and go to disk. */
  onFallback?: (reason: string) => void;
};

/** Read and written at once when weights move to disk. */
const COPY_BYTES = 4 * 1024 * 1024;
const LOCK_NAME = "owner.lock";

/** Takes both directories, removing what an earlier owner left. Throws alreadyExists when one is in use. */
export function openSegmentFiles(options: SegmentFilesOptions): SegmentMaker & { close(): void } {
  return new SegmentFiles(options);
}

type Owned = SegmentPlace & Place & { lock: DatabaseSync };

class SegmentFiles implements SegmentMaker {
  readonly #memory: Owned;
  readonly #disk: Owned;
  readonly #options: SegmentFilesOptions;
  readonly #spare: SpareShelf | undefined;
  /** For shared memory; undefined: its files are written. */
  readonly #mapper: Pick<Mover, "map"> | undefined;
  #spareTimer: NodeJS.Timeout | undefined;
  #names = 0;

  constructor(options: SegmentFilesOptions) {
    this.#options = options;
    this.#memory = own(options.memory, "memory", options.readerGroupId);
    try {
      this.#disk = own(options.disk, "disk", options.readerGroupId);
    } catch (error) {
      this.#memory.lock.close();
      throw error;
    }
    const { mover, spare, readerGroupId } = options;
    const { directory } = this.#memory;
    this.#mapper = mover !== undefined && hasHugePages(directory) ? mover : undefined;
    if (spare === undefined) return;
    this.#spare = new SpareShelf({ ...spare, directory, readerGroupId });
    this.#prepareSpare();
  }

  usage(): { bytesUsed: number; bytesMax: number } {
    const { bytesUsed, bytesMax } = this.#memory;
    return { bytesUsed: bytesUsed - (this.#spare?.bytes ?? 0), bytesMax };
  }

  places(): PlaceUsage[] {
    const { bytesUsed, bytesMax } = this.#disk;
    return [
      { place: "memory", ...this.usage(), bytesReady: this.#spare?.bytesReady ?? 0 },
      { place: "disk", bytesUsed, bytesReady: 0, bytesMax },
    ];
  }

  async create(
    repository: Pick<Repository, "weights" | "bytesTotal">,
    store: ObjectStore | undefined,
    evict: (place: "memory" | "disk") => boolean,
  ): Promise<SegmentSet> {
    const linked = store === undefined ? undefined : await this.#linkSources(repository.weights, store);
    if (linked !== undefined) return linked;
    // Its room is part of what is made now.
    const spare = this.#giveUpSpare(() => this.#spare?.take(repository.bytesTotal));
    const bytes = spare === undefined ? repository.bytesTotal : bytesInOneFile(repository.weights);
    const whyNotMemory = this.#makeRoom(this.#memory, bytes, evict);
    if (whyNotMemory === undefined) {
      return spare === undefined
        ? this.#createIn(this.#memory, repository.weights)
        : this.#adopt(spare, repository.weights);
    }
    spare?.discard();
    const whyNotDisk = this.#makeRoom(this.#disk, bytes, evict);
    if (whyNotDisk === undefined) {
      this.#options.onFallback?.(whyNotMemory);
      return this.#createIn(this.#disk, repository.weights);
    }
    throw new PlatformError(
      "resourceExhausted",
      `no room for ${bytes} bytes of weights: ${whyNotMemory}; ${whyNotDisk}`,
      {
        remedy: "Raise the limits of shared memory or disk cache, or stop a replica whose weights are held.",
      },
    );
  }

  async copyToDisk(
    set: SegmentSet,
    evict: () => boolean,
    signal: AbortSignal,
  ): Promise<SegmentSet | undefined> {
    if (!set.segments.some(({ place }) => place === "memory")) return undefined;
    if (this.#makeRoom(this.#disk, set.bytes, evict) !== undefined) return undefined;
    const copy = this.#createIn(this.#disk, set.segments);
    try {
      for (const [i, segment] of copy.segments.entries()) {
        const { path, base, bytes: size } = set.segments[i] as Segment;
        if (size === 0) continue;
        const range = { start: base, end: base + size - 1, highWaterMark: COPY_BYTES, signal };
        let offset = 0;
        for await (const bytes of createReadStream(path, range)) {
          segment.write(bytes, offset);
          offset += bytes.byteLength;
        }
      }
      for (const segment of copy.segments) segment.seal();
      return copy;
    } catch (error) {
      copy.remove();
      throw toPlatformError(error);
    }
  }

  close(): void {
    clearTimeout(this.#spareTimer);
    this.#giveUpSpare(() => this.#spare?.close());
    for (const place of [this.#memory, this.#disk]) {
      sweep(place.directory);
      place.lock.close();
    }
  }

  /** Undefined once there is room; else why there is none. */
  #makeRoom(place: Owned, bytes: number, evict: (place: "memory" | "disk") => boolean): string | undefined {
    while (true) {
      const reason = this.#shortage(place, bytes);
      if (reason === undefined || bytes > place.bytesMax) return reason;
      // What is only ready goes before what is held.
      if (place.kind === "memory" && this.#spare !== undefined && this.#spare.bytes > 0) {
        this.#giveUpSpare(() => this.#spare?.discard());
      } else if (!evict(place.kind)) return reason;
    }
  }

  /** Does something that may take or discard the spare memory; its room is free afterwards if it did. */
  #giveUpSpare<T>(step: () => T): T {
    const { bytes = 0, bytesReady = 0 } = this.#spare ?? {};
    const result = step();
    if (this.#spare?.bytes === 0) {
      this.#memory.bytesUsed -= bytes;
      this.#memory.bytesWritten -= bytesReady;
    }
    return result;
  }

  #prepareSpareLater(): void {
    if (this.#spare === undefined) return;
    clearTimeout(this.#spareTimer);
    this.#spareTimer = setTimeout(() => this.#prepareSpare(), this.#spare.delayMs);
  }

  /** Makes memory ready for the next load, where there is room for it. */
  #prepareSpare(): void {
    const shelf = this.#spare;
    if (
      shelf === undefined ||
      shelf.bytes > 0 ||
      this.#shortage(this.#memory, shelf.bytesWanted) !== undefined
    )
      return;
    shelf.prepare((bytesReady) => {
      this.#memory.bytesWritten += bytesReady;
    });
    this.#memory.bytesUsed += shelf.bytes;
  }

  #shortage(place: Owned, bytes: number): string | undefined {
    const { directory, bytesMax, bytesUsed, bytesWritten } = place;
    if (bytesUsed + bytes > bytesMax) return `${directory} holds ${bytesUsed} of at most ${bytesMax} bytes`;
    const { bavail, bsize } = statfsSync(directory);
    // Segments still being filled will take room that the file system does not count yet.
    const free = bavail * bsize - (bytesUsed - bytesWritten) - this.#options.reserveBytes;
    return bytes > free ? `${directory} has ${Math.max(0, free)} bytes free` : undefined;
  }

  #createIn(place: Owned, weights: readonly Pick<WeightFile, "bytes">[]): SegmentSet {
    const set = new FileSet(place, this.#options.readerGroupId, () => this.#prepareSpareLater());
    const mapper = place.kind === "memory" ? this.#mapper : undefined;
    try {
      for (const { bytes } of weights) set.add(this.#newPath(place), bytes, mapper);
    } catch (error) {
      set.remove();
      throw toPlatformError(error);
    }
    return set;
  }

  /** All files one after the other in memory that is ready. */
  #adopt(spare: SpareMemory, weights: readonly WeightFile[]): SegmentSet {
    const set = new FileSet(this.#memory, this.#options.readerGroupId, () => this.#prepareSpareLater());
    try {
      set.adopt(this.#newPath(this.#memory), spare, weights);
    } catch (error) {
      spare.discard();
      throw toPlatformError(error);
    }
    return set;
  }

  #newPath = ({ directory }: Owned): string => join(directory, `weights-${++this.#names}`);

  /** Another name for each of the source's files, when all are plain files on the disk place's file system. */
  async #linkSources(weights: readonly WeightFile[], store: ObjectStore): Promise<SegmentSet | undefined> {
    const paths: string[] = [];
    const remove = (): undefined => {
      for (const path of paths) rmSync(path, { force: true });
    };
    for (const { key, etag } of weights) {
      const source = store.uri.startsWith("file:") ? await store.locate(key) : undefined;
      if (source?.kind !== "file" || source.info.etag !== etag) return remove();
      const path = join(this.#disk.directory, `linked-${++this.#names}`);
      try {
        linkSync(source.path, path);
      } catch {
        return remove(); // Another file system, or one without hard links: copy.
      }
      paths.push(path);
      // The name could have been given to another file between the two steps.
      if (statSync(path).ino !== statSync(source.path, { throwIfNoEntry: false })?.ino) return remove();
    }
    const segments = paths.map((path, i): Segment => {
      const bytes = weights[i]?.bytes ?? 0;
      return { ...NOT_WRITTEN, path, bytes };
    });
    return { segments, bytes: 0, scratch: () => undefined, remove };
  }
}

/** True for a directory of segments whose owner is gone. One that is just being taken counts as owned. */
export function isAbandoned(directory: string): boolean {
  // Its owner makes the lock first of all.
  if (!existsSync(join(directory, LOCK_NAME))) return false;
  const lock = lockOf(directory);
  lock?.close();
  return lock !== undefined;
}

const NOT_WRITTEN = {
  base: 0,
  place: "source",
  descriptor: undefined,
  memory: undefined,
  write: nothing,
  filled: nothing,
  seal: nothing,
} as const;
/** The lock is SQLite's on an empty database: the kernel frees it when its holder dies. */
function own(place: SegmentPlace, kind: "memory" | "disk", readerGroupId: number | undefined): Owned {
  try {
    mkdirSync(place.directory, { recursive: true, mode: 0o750 });
    if (readerGroupId !== undefined) chownSync(place.directory, process.getuid?.() ?? 0, readerGroupId);
    const lock = lockOf(place.directory);
    if (lock === undefined) {
      throw new PlatformError("alreadyExists", `${place.directory} belongs to another weight streamer`, {
        remedy: "Stop it, or give this one its own segment directories.",
      });
    }
    sweep(place.directory);
    return { ...place, kind, lock, bytesUsed: 0, bytesWritten: 0 };
  } catch (error) {
    throw toPlatformError(error);
  }
}

/** Undefined where somebody has it. */
function lockOf(directory: string): DatabaseSync | undefined {
  const lock = new DatabaseSync(join(directory, LOCK_NAME), { timeout: 0 });
  try {
    lock.exec("BEGIN EXCLUSIVE");
    return lock;
  } catch {
    lock.close();
    return undefined;
  }
}

function sweep(directory: string): void {
  for (const name of readdirSync(directory)) {
    if (!name.startsWith(LOCK_NAME)) rmSync(join(directory, name), { recursive: true, force: true });
  }
}
