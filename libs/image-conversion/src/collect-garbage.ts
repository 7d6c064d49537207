// Removes what no image in use needs. Safe while conversions run:
//   G1. Nothing younger than the grace period is touched, and no conversion may take longer than that.
//   G2. A pack is deleted only after it was seen unreferenced a whole grace period ago and still is: a conversion that found
//       its chunks before the layer record went has written its image by then, which refers to the pack; one that makes
//       the same pack again renews it (pack-writer.ts).
//   G3. What refers to packs goes first (images, then layer records), packs last: an interrupted run leaves no dangling
//       reference.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  CHAINS_PREFIX,
  decodeLayerChunks,
  digestHex,
  HOT_PREFIX,
  IMAGES_PREFIX,
  LAYER_RECORD_HEAD_BYTES,
  LAYERS_PREFIX,
  layerChunksEnd,
  PACKS_PREFIX,
  PROFILES_PREFIX,
  parseImageFile,
} from "@pilotlight/image-format";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";
import { parseImageConfig } from "@pilotlight/oci";

export type GarbageOptions = {
  bucket: ObjectStore;
  /** Manifest digests of all images that versions use or nodes have mounted. */
  inUse: ReadonlySet<string>;
  /** Longer than any conversion. */
  graceMs: number;
  /** Epoch ms, on the bucket's clock. */
  now: number;
  /** Only say what would go. */
  dryRun?: boolean;
  signal?: AbortSignal;
};

export type GarbageReport = {
  images: number;
  layers: number;
  packs: number;
  deletedBytes: number;
  /** Packs that will go in a later run unless somebody refers to them meanwhile. */
  waitingPacks: number;
};

/** Pack hash (hex) → when it was first seen unreferenced. */
type Candidates = Record<string, number>;

const CANDIDATES_KEY = "garbage/packs.json";
const IMAGE_BYTES_MAX = 1 << 30;

export async function collectGarbage(options: GarbageOptions): Promise<GarbageReport> {
  const report: GarbageReport = { images: 0, layers: 0, packs: 0, deletedBytes: 0, waitingPacks: 0 };
  const kept = await sweepImages(options, report);
  const livePacks = new Set(kept.packs);
  await sweepLayers(options, kept.diffIds, livePacks, report);
  await sweepPacks(options, livePacks, report);
  return report;
}

/** Deletes images out of use with what belongs to them; returns what the others refer to. */
async function sweepImages(
  options: GarbageOptions,
  report: GarbageReport,
): Promise<{ packs: Set<string>; diffIds: Set<string> }> {
  const inUse = new Set([...options.inUse].map(digestHex));
  const packs = new Set<string>();
  const diffIds = new Set<string>();
  const gone = new Set<string>();
  for (const info of await list(options, IMAGES_PREFIX)) {
    const hex = info.key.slice(IMAGES_PREFIX.length);
    if (!inUse.has(hex) && isOld(info, options)) {
      await remove(options, info, report);
      report.images++;
      gone.add(hex);
      continue;
    }
    const file = parseImageFile(await read(options, info.key));
    for (const pack of file.index.packs.slice(1)) packs.add(pack.sha256.toString("hex"));
    for (const diffId of parseImageConfig(Buffer.from(file.manifest.ociConfig)).rootfs.diff_ids)
      diffIds.add(digestHex(diffId));
  }
  for (const prefix of [PROFILES_PREFIX, HOT_PREFIX]) {
    for (const info of await list(options, prefix)) {
      if (gone.has(info.key.slice(prefix.length).split("/")[0] as string))
        await remove(options, info, report);
    }
  }
  for (const info of await list(options, CHAINS_PREFIX))
    if (gone.has(info.key.slice(info.key.lastIndexOf("/") + 1))) await remove(options, info, report);
  return { packs, diffIds };
}

async function sweepLayers(
  options: GarbageOptions,
  live: Set<string>,
  livePacks: Set<string>,
  report: GarbageReport,
): Promise<void> {
  for (const info of await list(options, LAYERS_PREFIX)) {
    const diffId = info.key.slice(info.key.lastIndexOf("/") + 1);
    if (!live.has(diffId) && isOld(info, options)) {
      await remove(options, info, report);
      report.layers++;
    } else {
      for (const hex of await packsOfRecord(options, info.key)) livePacks.add(hex);
    }
  }
}

async function packsOfRecord(options: GarbageOptions, key: string): Promise<string[]> {
  const { bucket, signal } = options;
  const at = (length: number) => ({ range: { offset: 0, length }, ...(signal && { signal }) });
  const head = await bucket.get(key, at(LAYER_RECORD_HEAD_BYTES));
  const { bytes } = await bucket.get(key, {
    ...at(layerChunksEnd(Buffer.from(head.bytes))),
    ifMatch: head.info.etag,
  });
  return decodeLayerChunks(Buffer.from(bytes)).packs.map(({ sha256 }) => sha256.toString("hex"));
}

async function sweepPacks(options: GarbageOptions, live: Set<string>, report: GarbageReport): Promise<void> {
  const before = await readCandidates(options);
  const waiting: Candidates = {};
  for (const info of await list(options, PACKS_PREFIX)) {
    const hex = info.key.slice(PACKS_PREFIX.length);
    if (live.has(hex) || !isOld(info, options)) continue;
    const since = before[hex] ?? options.now;
    if (options.now - since < options.graceMs) {
      waiting[hex] = since;
      continue;
    }
    // A conversion that needs it again has made it young meanwhile.
    const current = await options.bucket.head(info.key);
    if (current === undefined || !isOld(current, options)) continue;
    await remove(options, info, report);
    report.packs++;
  }
  report.waitingPacks = Object.keys(waiting).length;
  if (options.dryRun !== true) await options.bucket.put(CANDIDATES_KEY, JSON.stringify(waiting));
}

async function readCandidates(options: GarbageOptions): Promise<Candidates> {
  try {
    const json: unknown = JSON.parse((await read(options, CANDIDATES_KEY)).toString("utf8"));
    if (json === null || typeof json !== "object")
      throw new PlatformError("corrupt", `${CANDIDATES_KEY} is malformed`);
    return Object.fromEntries(Object.entries(json).filter(([, since]) => typeof since === "number"));
  } catch (error) {
    // Without it every candidate waits a grace period again.
    if (toPlatformError(error).code === "notFound" || error instanceof SyntaxError) return {};
    throw error;
  }
}

/** The whole listing first: deleting while a listing goes on confuses some stores. */
async function list({ bucket, signal }: GarbageOptions, prefix: string): Promise<ObjectInfo[]> {
  const found: ObjectInfo[] = [];
  for await (const info of bucket.list({ prefix, ...(signal && { signal }) })) found.push(info);
  return found;
}

async function read({ bucket, signal }: GarbageOptions, key: string): Promise<Buffer> {
  const { bytes } = await bucket.get(key, { bytesMax: IMAGE_BYTES_MAX, ...(signal && { signal }) });
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function isOld(info: ObjectInfo, { now, graceMs }: GarbageOptions): boolean {
  return info.modifiedAt > 0 && now - info.modifiedAt > graceMs;
}

async function remove(options: GarbageOptions, info: ObjectInfo, report: GarbageReport): Promise<void> {
  report.deletedBytes += info.size;
  if (options.dryRun !== true)
    await options.bucket.delete(info.key, options.signal === undefined ? {} : { signal: options.signal });
}
