// What starts touch first, in the bucket beside the image: learnt from each start, used by the next. Nothing here is needed
// for correctness; whatever is missing or broken costs time only.
import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError, type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import {
  encodeHotPack,
  encodeProfile,
  type HotRun,
  hotKey,
  hotRuns,
  type ImageFile,
  mergeProfile,
  type Profile,
  parseProfile,
  profileKey,
  runBytes,
  type TouchedRuns,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";

/** A start that needs more than this is not helped by one stream. */
const HOT_BYTES_MAX = 1 << 30;
const EXPORT_PAGES_MAX = 1024;
const WRITE_RETRY: RetryPolicy = { attemptsMax: 4, initialDelayMs: 100, delayMsMax: 400 };

/** Names an entry point: the command that is run. Starts of different commands have different profiles. */
export function entryName(command: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(command)).digest("hex").slice(0, 16);
}

export type RecordedStart = {
  /** Starts that the profile now holds. */
  starts: number;
  /** Content that a start touches, uncompressed. */
  hotBytes: number;
  /** Size of the new hot pack; undefined when the old one still does. */
  hotPackBytes: number | undefined;
};

export type RecordOptions = {
  bucket: ObjectStore;
  file: ImageFile;
  entry: string;
  touched: TouchedRuns;
  /** Writes the pages of these runs, one after the other, to a file. */
  export: (runs: readonly HotRun[], path: string) => Promise<void>;
  /** For the exported pages; removed afterwards. */
  scratchPath: string;
};

/** Merges a start into the profile of its entry point, and writes the hot pack anew where that is worth it. */
export async function recordStart(options: RecordOptions): Promise<RecordedStart> {
  const { bucket, file, entry } = options;
  const { before, after } = await updateProfile(options);
  const runs = hotRuns(after, file.index, HOT_BYTES_MAX);
  const hotBytes = runs.reduce((sum, run) => sum + runBytes(run), 0);
  const key = hotKey(file.manifest.manifestDigest, entry);
  const old = before === undefined ? [] : hotRuns(before, file.index, HOT_BYTES_MAX);
  const fresh = (await bucket.head(key)) !== undefined && !differs(old, runs);
  if (fresh || runs.length === 0) return { starts: after.starts, hotBytes, hotPackBytes: undefined };
  const pack = await buildHotPack(options, runs);
  await bucket.put(key, pack);
  return { starts: after.starts, hotBytes, hotPackBytes: pack.length };
}

/** Read, merge, write if nobody wrote meanwhile, else again. */
async function updateProfile({
  bucket,
  file,
  entry,
  touched,
}: RecordOptions): Promise<{ before: Profile | undefined; after: Profile }> {
  const key = profileKey(file.manifest.manifestDigest, entry);
  const update = async () => {
    const found = await readProfile(bucket, key);
    const after = mergeProfile(found?.profile, file.index, touched);
    await bucket.put(
      key,
      encodeProfile(after),
      found === undefined ? { ifNoneMatch: "*" } : { ifMatch: found.etag },
    );
    return { before: found?.profile, after };
  };
  return retry(update, WRITE_RETRY, { shouldRetry: ({ code }) => code === "preconditionFailed" });
}

async function readProfile(
  bucket: ObjectStore,
  key: string,
): Promise<{ profile: Profile | undefined; etag: string } | undefined> {
  try {
    const { bytes, info } = await bucket.get(key);
    try {
      return { profile: parseProfile(Buffer.from(bytes)), etag: info.etag };
    } catch {
      return { profile: undefined, etag: info.etag };
    }
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return undefined;
    throw error;
  }
}

/** Whether the new plan has pages that the old pack lacks, or drops enough to be worth a new one. Pages are counted. */
function differs(old: readonly HotRun[], now: readonly HotRun[]): boolean {
  const had = pagesOf(old);
  const wants = pagesOf(now);
  const missing = [...wants].filter((page) => !had.has(page)).length;
  const idle = [...had].filter((page) => !wants.has(page)).length;
  return missing > wants.size * 0.02 || idle > had.size * 0.2;
}

function pagesOf(runs: readonly HotRun[]): Set<number> {
  return new Set(runs.flatMap(({ page, pages }) => Array.from({ length: pages }, (_, i) => page + i)));
}

async function buildHotPack(
  { file, export: exportRuns, scratchPath }: RecordOptions,
  runs: readonly HotRun[],
): Promise<Buffer> {
  const pieces = runs.flatMap(split);
  try {
    await exportRuns(pieces, scratchPath);
    const content = await readFile(scratchPath);
    const starts = new Map<number, number>();
    let at = 0;
    for (const piece of pieces) {
      for (let i = 0; i < piece.pages; i++) starts.set(piece.page + i, at + i * PAGE_BYTES);
      at += runBytes(piece);
    }
    if (content.length !== at) throw new PlatformError("internal", "the exported pages have another length");
    return await encodeHotPack(file.manifest.imageId, runs, async (run) => {
      const pages = Array.from({ length: run.pages }, (_, i) => starts.get(run.page + i) as number);
      return Buffer.concat(pages.map((start) => content.subarray(start, start + PAGE_BYTES)));
    });
  } finally {
    await rm(scratchPath, { force: true });
  }
}

const PAGE_BYTES = runBytes({ page: 0, pages: 1 });

function split(run: HotRun): HotRun[] {
  return Array.from({ length: Math.ceil(run.pages / EXPORT_PAGES_MAX) }, (_, i) => ({
    page: run.page + i * EXPORT_PAGES_MAX,
    pages: Math.min(EXPORT_PAGES_MAX, run.pages - i * EXPORT_PAGES_MAX),
  }));
}

/** What the bucket knows of the starts of one entry point. */
export type StoredProfile = { entry: string; profileBytes: number; hotPackBytes: number | undefined };

/** The profiles of an image. */
export async function profilesOf(bucket: ObjectStore, manifestDigest: string): Promise<StoredProfile[]> {
  const found: StoredProfile[] = [];
  const prefix = profileKey(manifestDigest, "");
  for await (const { key, size } of bucket.list({ prefix })) {
    const entry = key.slice(prefix.length);
    // A profile only helps: a bucket that cannot say is as good as none.
    const hot = await bucket.head(hotKey(manifestDigest, entry)).catch(() => undefined);
    found.push({ entry, profileBytes: size, hotPackBytes: hot?.size });
  }
  return found;
}

export const exportPath = (cacheDir: string, key: string): string => join(cacheDir, `export-${key}`);
