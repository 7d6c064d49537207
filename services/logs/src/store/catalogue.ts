// The segments that the bucket holds, by listing it; and their statistics, read when a search asks and kept within a bound.
//   C1. A segment that another one says to have replaced does not exist, even while its object is still there.
//   C2. Segments of a journal that is still local do not exist: its lines are found in the journal.
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { toPlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import { logger } from "@pilotlight/telemetry";
import type { FileStatistics } from "../adapters/analyst-protocol.ts";
import {
  parseSegmentKey,
  SEGMENTS_PREFIX,
  type Segment,
  type SegmentStats,
  segmentStats,
  statsKey,
} from "../domain/segments.ts";

export type CatalogueOptions = {
  bucket: ObjectStore;
  /** For copies of segments of buckets that are no directory. */
  cacheDirectory: string;
  cacheBytesMax: number;
  /** Statistics in memory. */
  statsBytesMax: number;
};

/** A copy that is being made is not counted and not deleted. */
const isWhole = (name: string): boolean => !name.endsWith(".part");
const STATS_FILE_BYTES_MAX = 64 * 1024 * 1024;

export class Catalogue {
  readonly #options: CatalogueOptions;
  #segments = new Map<string, Segment>();
  #isListed = false;
  readonly #stats = new Map<string, SegmentStats>();
  #statsBytes = 0;
  readonly #copies = new Map<string, Promise<string>>();

  constructor(options: CatalogueOptions) {
    this.#options = options;
  }

  /** Every segment. */
  get segments(): Iterable<Segment> {
    return this.#segments.values();
  }

  /** False until the bucket was listed for the first time: then `segments` are not all. */
  get isListed(): boolean {
    return this.#isListed;
  }

  /** Lists the bucket. `isLocal` says which journals are still here. Objects that were replaced are deleted. */
  async refresh(isLocal: (journal: string) => boolean): Promise<void> {
    const found = new Map<string, Segment>();
    for await (const { key, size } of this.#options.bucket.list({ prefix: SEGMENTS_PREFIX })) {
      const segment = parseSegmentKey(key, size);
      if (segment === undefined || (segment.journal !== undefined && isLocal(segment.journal))) continue;
      found.set(key, segment);
    }
    for (const segment of [...found.values()].filter(({ journal }) => journal === undefined)) {
      const stats = await this.stats(segment);
      for (const key of stats?.replaces ?? []) {
        const replaced = found.get(key);
        if (replaced === undefined) continue;
        found.delete(key);
        await this.#delete(key);
      }
    }
    this.#segments = found;
    this.#isListed = true;
  }

  /** Puts a file into the bucket as a segment: its statistics first, so that no segment is without. */
  async add(key: string, path: string, file: FileStatistics, replaces: readonly string[]): Promise<Segment> {
    const { rows, timeMin, timeMax, requestIds } = file;
    const stats: SegmentStats = { format: 1, rows, timeMin, timeMax, requestIds, replaces: [...replaces] };
    await this.#options.bucket.put(statsKey(key), JSON.stringify(stats), { contentType: "application/json" });
    const { size } = await this.#options.bucket.put(key, createReadStream(path), {
      contentType: "application/vnd.apache.parquet",
    });
    const segment = parseSegmentKey(key, size);
    if (segment === undefined) throw new TypeError(`${key} is no segment's key`);
    return segment;
  }

  /** From now on searches see these segments, and not those. */
  replace(added: readonly Segment[], removed: readonly Segment[]): void {
    for (const { key } of removed) this.#segments.delete(key);
    for (const segment of added) this.#segments.set(segment.key, segment);
  }

  /** Deletes objects that searches no longer see. What fails is deleted by the next refresh or retention. */
  async delete(segments: readonly Segment[]): Promise<void> {
    for (const { key } of segments) {
      this.#segments.delete(key);
      await this.#delete(key);
    }
  }

  /** A segment's statistics; undefined when they are missing or make no sense: then it must be read. */
  async stats(segment: Segment): Promise<SegmentStats | undefined> {
    const known = this.#stats.get(segment.key);
    if (known !== undefined) {
      this.#stats.delete(segment.key); // to the end: last used
      this.#stats.set(segment.key, known);
      return known;
    }
    try {
      const { bytes } = await this.#options.bucket.get(statsKey(segment.key), {
        bytesMax: STATS_FILE_BYTES_MAX,
      });
      const stats = segmentStats.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
      this.#keep(segment.key, stats);
      return stats;
    } catch (thrown) {
      const error = toPlatformError(thrown);
      if (error.code === "unavailable" || error.code === "deadlineExceeded") throw error;
      logger("catalogue").warn("a segment's statistics cannot be read; it is searched whole", {
        key: segment.key,
        error,
      });
      return undefined;
    }
  }

  /** A local file with the segment's bytes: the object itself in a directory, else a copy. Throws `notFound`. */
  async file(segment: Segment): Promise<string> {
    const source = await this.#options.bucket.locate(segment.key);
    if (source.kind === "file") return source.path;
    const running = this.#copies.get(segment.key);
    if (running !== undefined) return running;
    const copy = this.#copy(segment.key).finally(() => this.#copies.delete(segment.key));
    this.#copies.set(segment.key, copy);
    return copy;
  }

  async #copy(key: string): Promise<string> {
    const { cacheDirectory, bucket } = this.#options;
    await mkdir(cacheDirectory, { recursive: true });
    const path = join(cacheDirectory, `${createHash("sha256").update(key).digest("hex")}.parquet`);
    const now = new Date();
    const present = await utimes(path, now, now).then(
      () => true,
      () => false,
    );
    if (present) return path;
    const { body, length } = await bucket.stream(key);
    await this.#makeRoom(length);
    await pipeline(body, createWriteStream(`${path}.part`));
    await rename(`${path}.part`, path);
    return path;
  }

  /** Deletes the copies that were not used for the longest time. */
  async #makeRoom(bytes: number): Promise<void> {
    const { cacheDirectory, cacheBytesMax } = this.#options;
    const copies = await Promise.all(
      (await readdir(cacheDirectory)).filter(isWhole).map(async (name) => {
        const path = join(cacheDirectory, name);
        const { size, mtimeMs } = await stat(path);
        return { path, size, mtimeMs };
      }),
    );
    let total = copies.reduce((sum, { size }) => sum + size, bytes);
    for (const { path, size } of copies.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
      if (total <= cacheBytesMax) return;
      await rm(path, { force: true });
      total -= size;
    }
  }

  #keep(key: string, stats: SegmentStats): void {
    this.#stats.set(key, stats);
    this.#statsBytes += stats.requestIds.length;
    for (const [oldest, { requestIds }] of this.#stats) {
      if (this.#statsBytes <= this.#options.statsBytesMax || oldest === key) return;
      this.#stats.delete(oldest);
      this.#statsBytes -= requestIds.length;
    }
  }

  async #delete(key: string): Promise<void> {
    const known = this.#stats.get(key);
    if (known !== undefined) {
      this.#stats.delete(key);
      this.#statsBytes -= known.requestIds.length;
    }
    await this.#options.bucket.delete(key);
    await this.#options.bucket.delete(statsKey(key));
  }
}
