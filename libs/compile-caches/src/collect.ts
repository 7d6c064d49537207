// Removes compile caches that no version uses. Safe beside starts and saves:
//   C1. A record goes only after it was seen unused a whole grace period ago and still is, and only as it was then looked at: one
//       that was saved anew meanwhile stays. So a version that comes back within the grace period finds its cache.
//   C2. An archive goes when no record names it and it is older than the grace period: a save in between has named its own by then.
//   C3. Records first: an interrupted run leaves archives, which the next one removes, and no record without its archive. A start
//       that has read a record just before finds no archive and goes on without a cache.
import { toPlatformError } from "@pilotlight/errors";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";
import * as z from "zod";
import {
  archiveKey,
  type CacheRecord,
  isArchive,
  keyOfRecord,
  PREFIX,
  parseRecord,
  RECORD_BYTES_MAX,
} from "./record.ts";

export type CollectOptions = {
  bucket: ObjectStore;
  /** What versions say of their caches, and the digests of the images that they lead to. */
  inUse: { specifications: ReadonlySet<string>; manifestDigests: ReadonlySet<string> };
  /** Longer than any save takes. */
  graceMs: number;
  /** Epoch ms, on the bucket's clock. */
  now: number;
  signal?: AbortSignal;
};

export type CollectReport = {
  caches: number;
  archives: number;
  deletedBytes: number;
  /** Caches that will go in a later run unless a version uses them meanwhile. */
  waitingCaches: number;
};

const CANDIDATES_KEY = "garbage/compile-caches.json";
const CANDIDATES_BYTES_MAX = 64 * 1024 ** 2;
/** Key of a cache → when it was first seen unused (epoch ms). */
const candidates = z.record(z.string(), z.number());
type Candidates = z.infer<typeof candidates>;

/** Deletes what no version uses; tells what went. */
export async function collectCompileCaches(options: CollectOptions): Promise<CollectReport> {
  const report: CollectReport = { caches: 0, archives: 0, deletedBytes: 0, waitingCaches: 0 };
  // The whole listing first: deleting while a listing goes on confuses some stores.
  const objects = await Array.fromAsync(options.bucket.list({ prefix: PREFIX, ...signalOf(options) }));
  const named = await sweepRecords(options, objects, report);
  for (const info of objects) {
    if (!isArchive(info.key) || named.has(info.key) || !isOld(info, options)) continue;
    await options.bucket.delete(info.key, signalOf(options));
    report.archives++;
    report.deletedBytes += info.size;
  }
  return report;
}

/** Deletes records that were unused long enough; gives the archives that the others name. */
async function sweepRecords(
  options: CollectOptions,
  objects: readonly ObjectInfo[],
  report: CollectReport,
): Promise<Set<string>> {
  const before = await readCandidates(options);
  const waiting: Candidates = {};
  const named = new Set<string>();
  for (const info of objects) {
    const key = keyOfRecord(info.key);
    if (key === undefined) continue;
    const seen = await readRecord(options, info);
    if (seen === "gone") continue;
    const isUsed = seen.record !== null && usedBy(options.inUse, seen.record);
    const since = before[key] ?? options.now;
    const isDue = !isUsed && options.now - since >= options.graceMs && isOld(seen.info, options);
    if (isDue && (await deleteAsSeen(options, seen.info))) {
      report.caches++;
      report.deletedBytes += seen.info.size;
      continue;
    }
    if (seen.record !== null) named.add(archiveKey(key, seen.record.archive));
    if (!isUsed && !isDue) waiting[key] = since;
  }
  report.waitingCaches = Object.keys(waiting).length;
  await options.bucket.put(CANDIDATES_KEY, JSON.stringify(waiting), signalOf(options));
  return named;
}

const usedBy = (inUse: CollectOptions["inUse"], { specification, manifestDigest }: CacheRecord): boolean =>
  inUse.specifications.has(specification) && inUse.manifestDigests.has(manifestDigest);

/** A record as it is now; null for one that cannot be read: nobody can use it either. */
async function readRecord(
  { bucket, signal }: CollectOptions,
  listed: ObjectInfo,
): Promise<{ info: ObjectInfo; record: CacheRecord | null } | "gone"> {
  if (listed.size > RECORD_BYTES_MAX) return { info: listed, record: null };
  try {
    const { info, bytes } = await bucket.get(listed.key, signal === undefined ? {} : { signal });
    return { info, record: recordOrNull(bytes) };
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return "gone";
    throw error;
  }
}

function recordOrNull(bytes: Uint8Array): CacheRecord | null {
  try {
    return parseRecord(bytes);
  } catch {
    return null;
  }
}

/** False when it was saved anew since it was looked at. */
async function deleteAsSeen(options: CollectOptions, { key, etag }: ObjectInfo): Promise<boolean> {
  try {
    await options.bucket.delete(key, { ifMatch: etag, ...signalOf(options) });
    return true;
  } catch (error) {
    if (toPlatformError(error).code === "preconditionFailed") return false;
    throw error;
  }
}

async function readCandidates(options: CollectOptions): Promise<Candidates> {
  try {
    const { bytes } = await options.bucket.get(CANDIDATES_KEY, {
      bytesMax: CANDIDATES_BYTES_MAX,
      ...signalOf(options),
    });
    // Without it every candidate waits a grace period again.
    return candidates.catch({}).parse(parseJson(Buffer.from(bytes).toString("utf8")));
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return {};
    throw error;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const isOld = ({ modifiedAt }: ObjectInfo, { now, graceMs }: CollectOptions): boolean =>
  modifiedAt > 0 && now - modifiedAt > graceMs;

const signalOf = ({ signal }: CollectOptions): { signal?: AbortSignal } =>
  signal === undefined ? {} : { signal };
