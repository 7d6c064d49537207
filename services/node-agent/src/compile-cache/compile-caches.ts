// Compile caches of this node: restored from the bucket before a replica's process starts, saved there after the first start that
// found none. A replica's folders are those of its version on this node, under the same path everywhere, so whatever an engine
// notes about places stays true.
//   K1. A start never fails and never waits long because of its cache: what goes wrong is said, and the folder is empty.
//   K2. A folder appears whole: it is unpacked elsewhere, checked against its digest, and renamed.
//   K3. What is in the bucket is whole too: first the archive, then the record that names it.
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  archiveKey,
  type CacheOwner,
  formatRecord,
  parseRecord,
  RECORD_BYTES_MAX,
  recordKey,
  removeSpareArchives,
} from "@pilotlight/compile-caches";
import { toPlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import { counter, histogram, LATENCY_BUCKETS_S, logger } from "@pilotlight/telemetry";
import { SharedWork } from "../adapters/shared-work.ts";
import type { CompileCache } from "../domain/replica.ts";
import { makeFolder, packFolder, stateOfFolder, unpackArchive } from "./archive.ts";

export type CompileCachesOptions = {
  bucket: ObjectStore;
  /** On a local disk; replicas see their folder in it under the same path. */
  directory: string;
  /** Longest time that a start waits for its cache. */
  restoreTimeoutMs: number;
  /** A cache is saved when nothing in it has changed for so long. */
  settleMs: number;
  /** Saves of one cache that stay in the bucket. */
  archivesMax: number;
};

/** What a deployment says of its cache. */
export type CacheWish = { key: string; owner: CacheOwner; variables: readonly string[]; bytesMax: number };

/** A folder that was restored for a replica is not removed before the replica is known to have it. */
const RESTORED_KEEP_MS = 600_000;
/** A cache that never comes to rest is saved as it is after so many looks. */
const SETTLE_LOOKS_MAX = 30;

const restored = counter({
  name: "pilotlight_node_compile_caches_total",
  help: "Starts by what became of their compile cache.",
  labelNames: ["outcome"],
});
const restoredBytes = counter({
  name: "pilotlight_node_compile_cache_restored_bytes_total",
  help: "Bytes of files restored.",
});
const savedBytes = counter({
  name: "pilotlight_node_compile_cache_saved_bytes_total",
  help: "Bytes of files saved.",
});
const seconds = histogram({
  name: "pilotlight_node_compile_cache_restore_seconds",
  help: "Looking for a compile cache and restoring it.",
  buckets: LATENCY_BUCKETS_S,
});

type Found = Pick<CompileCache, "outcome" | "bytes">;

export class CompileCaches {
  readonly #options: CompileCachesOptions;
  readonly #restoring = new SharedWork<Found>();
  readonly #saving = new Set<string>();
  readonly #restoredAt = new Map<string, number>();
  readonly #log = logger("compile-cache");

  constructor(options: CompileCachesOptions) {
    this.#options = options;
  }

  /** The folder that is bound into replicas. */
  folder(key: string): string {
    return join(this.#options.directory, key);
  }

  /** The variables that tell the engine its folders. */
  environment({ key, variables }: Pick<CacheWish, "key" | "variables">): Record<string, string> {
    return Object.fromEntries(variables.map((name) => [name, join(this.folder(key), name)]));
  }

  /** Makes the folder of a replica's cache, with what is known. Never fails (K1). */
  async restore(wish: CacheWish): Promise<CompileCache> {
    const startedAt = performance.now();
    this.#restoredAt.set(wish.key, startedAt);
    const { outcome, bytes } = await this.#found(wish);
    const durationMs = Math.round(performance.now() - startedAt);
    restored.inc({ outcome });
    restoredBytes.inc(bytes);
    seconds.observe(durationMs / 1000);
    this.#log.info("compile cache", { key: wish.key, outcome, bytes, durationMs });
    const { manifestDigest } = wish.owner;
    return { key: wish.key, manifestDigest, outcome, bytes, durationMs, savedBytes: 0 };
  }

  /**
   * Saves what a start has left in the folder, unless it is what the bucket has. Gives the bytes of its files; 0 when there is
   * nothing to save, or it cannot be.
   */
  async save(wish: CacheWish, { outcome }: Found, signal: AbortSignal): Promise<number> {
    const { key } = wish;
    if (outcome === "hit" || this.#saving.has(key)) return 0;
    this.#saving.add(key);
    try {
      // The replica that filled it may have ended before it was ready.
      if (outcome === "held" && (await this.#options.bucket.head(recordKey(key), { signal })) !== undefined)
        return 0;
      await this.#settled(wish, signal);
      const bytes = await this.#put(wish, signal);
      savedBytes.inc(bytes);
      if (bytes > 0) this.#log.info("compile cache saved", { key, bytes });
      return bytes;
    } catch (thrown) {
      if (!signal.aborted)
        this.#log.warn("a compile cache is not saved: the next start compiles again", {
          key,
          error: toPlatformError(thrown),
        });
      return 0;
    } finally {
      this.#saving.delete(key);
    }
  }

  /** Removes the folders of versions that have no replica here; they are in the bucket. */
  async tidy(inUse: ReadonlySet<string>): Promise<void> {
    if (this.#restoring.busy || this.#saving.size > 0) return;
    for (const name of await readdir(this.#options.directory).catch(() => [])) {
      const age = performance.now() - (this.#restoredAt.get(name) ?? Number.NEGATIVE_INFINITY);
      if (inUse.has(name) || age < RESTORED_KEEP_MS) continue;
      this.#restoredAt.delete(name);
      await rm(this.folder(name), { recursive: true, force: true });
    }
  }

  async #found(wish: CacheWish): Promise<Found> {
    const { key } = wish;
    const { directory, restoreTimeoutMs } = this.#options;
    const late = AbortSignal.timeout(restoreTimeoutMs);
    try {
      await mkdir(directory, { recursive: true, mode: 0o711 });
      if (await isThere(this.folder(key))) return { outcome: "held", bytes: 0 };
      return await this.#restoring.join(key, (signal) => this.#restoreOnce(wish, signal), late);
    } catch (thrown) {
      const error = toPlatformError(late.aborted ? late.reason : thrown);
      this.#log.warn("a compile cache cannot be used: the start goes on without", { key, error });
      return { outcome: "broken", bytes: 0 };
    } finally {
      await this.#ensureFolders(wish);
    }
  }

  async #restoreOnce({ key, bytesMax }: CacheWish, signal: AbortSignal): Promise<Found> {
    const { bucket, directory } = this.#options;
    const record = await orUndefined(bucket.get(recordKey(key), { bytesMax: RECORD_BYTES_MAX, signal }));
    if (record === undefined) return { outcome: "miss", bytes: 0 };
    const { archive } = parseRecord(record.bytes);
    // Removed, because no version used it, in this very moment: as if it had been before.
    const stream = await orUndefined(bucket.stream(archiveKey(key, archive), { signal }));
    if (stream === undefined) return { outcome: "miss", bytes: 0 };
    const partial = await mkdtemp(join(directory, "partial-"));
    try {
      const folder = join(partial, "folder");
      const bytes = await unpackArchive(stream.body, folder, { bytesMax, sha256: archive }, signal);
      await rename(folder, this.folder(key));
      return { outcome: "hit", bytes };
    } finally {
      await rm(partial, { recursive: true, force: true });
    }
  }

  /** What an engine expects to be there, whatever came from the bucket. */
  async #ensureFolders({ key, variables }: CacheWish): Promise<void> {
    for (const folder of [this.folder(key), ...variables.map((name) => join(this.folder(key), name))])
      await makeFolder(folder).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST")
          this.#log.warn("a folder for a compile cache cannot be made", {
            folder,
            error: toPlatformError(error),
          });
      });
  }

  /** Waits until nothing changes any more. */
  async #settled({ key, bytesMax }: CacheWish, signal: AbortSignal): Promise<void> {
    let seen: string | undefined;
    for (let look = 0; look < SETTLE_LOOKS_MAX; look++) {
      const now = await stateOfFolder(this.folder(key), bytesMax);
      if (now === seen) return;
      seen = now;
      await sleep(this.#options.settleMs, undefined, { signal });
    }
  }

  async #put({ key, owner, bytesMax }: CacheWish, signal: AbortSignal): Promise<number> {
    const { bucket, directory, archivesMax } = this.#options;
    const partial = await mkdtemp(join(directory, "partial-"));
    try {
      const file = join(partial, "archive");
      const { bytes, files, sha256 } = await packFolder(this.folder(key), file, bytesMax);
      if (files === 0) return 0;
      await bucket.put(archiveKey(key, sha256), createReadStream(file), { sha256, signal });
      await bucket.put(recordKey(key), formatRecord({ ...owner, archive: sha256, bytes, files }), { signal });
      await removeSpareArchives(bucket, key, sha256, { archivesMax, signal }).catch((thrown) =>
        this.#log.warn("earlier archives of a compile cache stay", { key, error: toPlatformError(thrown) }),
      );
      return bytes;
    } finally {
      await rm(partial, { recursive: true, force: true });
    }
  }
}

/** What is asked of the bucket; undefined when there is no such object. */
const orUndefined = <T>(asked: Promise<T>): Promise<T | undefined> =>
  asked.catch((thrown) => {
    if (toPlatformError(thrown).code === "notFound") return undefined;
    throw thrown;
  });

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
