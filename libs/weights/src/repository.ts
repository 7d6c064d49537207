// A model repository as the streamer sees it before the first byte of weights: which files, pinned by ETag, their
// headers read and checked, the small files that an engine wants beside them. Everything later is read under these
// pins, so a file that is replaced during a load is an error, never a mixture.
import { createHash } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import { type FileDigest, parseModelRecord, RECORD_FILE } from "@pilotlight/models/record";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";
import {
  checkShards,
  findWeightFiles,
  INDEX_FILE,
  LENGTH_BYTES,
  parseHeader,
  parseHeaderLength,
  parseIndex,
  type SafetensorsHeader,
  SINGLE_FILE,
} from "@pilotlight/safetensors";

const MiB = 1024 * 1024;
/** Read at once with the length field: nearly every header fits, so one request does. */
const FIRST_READ_BYTES = 256 * 1024;
const JSON_BYTES_MAX = 64 * MiB;
const SMALL_FILE_BYTES_MAX = 64 * MiB;
const SMALL_FILES_BYTES_MAX = 128 * MiB;
const HEADERS_AT_ONCE = 8;
/** What engines read beside the weights. */
const SMALL_FILE = /\.(json|jinja|txt|model|tiktoken)$/;
/** Asked for one by one where the source cannot be listed. */
const COMMON_FILES = [
  INDEX_FILE,
  SINGLE_FILE,
  RECORD_FILE,
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  "vocab.txt",
  "modules.json",
  "1_Pooling/config.json",
];

export type WeightFile = {
  key: string;
  etag: string;
  bytes: number;
  header: SafetensorsHeader;
  /** Known when the repository was added by Pilotlight. */
  digest: FileDigest | undefined;
};

export type Repository = {
  weights: WeightFile[];
  /** Small files by key. */
  files: Map<string, Uint8Array>;
  bytesTotal: number;
  tensorsTotal: number;
};

/** The repository's objects by key; only the common ones where the source cannot be listed. */
export async function listObjects(store: ObjectStore, signal: AbortSignal): Promise<Map<string, ObjectInfo>> {
  const objects = new Map<string, ObjectInfo>();
  try {
    for await (const info of store.list({ signal })) objects.set(info.key, info);
  } catch (error) {
    if ((error as PlatformError).code !== "unsupported") throw error;
    const found = await Promise.all(COMMON_FILES.map((key) => store.head(key, { signal })));
    for (const info of found) if (info !== undefined) objects.set(info.key, info);
    const index = objects.get(INDEX_FILE);
    const shards = index === undefined ? [] : parseIndex(await text(store, index, signal)).shards;
    for (const info of await Promise.all(shards.map((key) => store.head(key, { signal })))) {
      if (info !== undefined) objects.set(info.key, info);
    }
  }
  return objects;
}

/** Changes whenever an object of the repository does. */
export function fingerprint(objects: ReadonlyMap<string, ObjectInfo>): string {
  const hash = createHash("sha256");
  for (const key of [...objects.keys()].sort()) hash.update(`${key}\0${objects.get(key)?.etag}\0`);
  return hash.digest("hex");
}

/** Reads what is needed to start loading. Throws notFound, `corrupt` and the store's errors, naming the file. */
export async function readRepository(
  store: ObjectStore,
  objects: ReadonlyMap<string, ObjectInfo>,
  signal: AbortSignal,
): Promise<Repository> {
  const found = findWeightFiles(objects.keys());
  const index =
    found.kind === "sharded"
      ? parseIndex(await text(store, object(objects, found.index), signal))
      : undefined;
  const keys = found.kind === "single" ? [found.file] : (index?.shards ?? []);
  const record = objects.get(RECORD_FILE);
  const digests = record === undefined ? {} : parseModelRecord(await text(store, record, signal)).files;
  const weights = await inTurns(keys, HEADERS_AT_ONCE, async (key) => {
    return readWeightFile(store, object(objects, key), digests[key], signal);
  });
  if (index !== undefined) checkShards(index, new Map(weights.map(({ key, header }) => [key, header])));
  return {
    weights,
    files: await readSmallFiles(store, objects, signal),
    bytesTotal: weights.reduce((sum, { bytes }) => sum + bytes, 0),
    tensorsTotal: weights.reduce((sum, { header }) => sum + header.tensors.length, 0),
  };
}

async function readWeightFile(
  store: ObjectStore,
  info: ObjectInfo,
  digest: FileDigest | undefined,
  signal: AbortSignal,
): Promise<WeightFile> {
  const { key, etag, size } = info;
  if (digest !== undefined && digest.bytes !== size) {
    throw new PlatformError("corrupt", `${key} has ${size} bytes, its record says ${digest.bytes}`, {
      remedy: "Add the model again with `pilotlight model add`.",
    });
  }
  if (size < LENGTH_BYTES)
    throw new PlatformError("corrupt", `${key} has only ${size} bytes: no safetensors file`);
  try {
    const options = { ifMatch: etag, signal };
    const first = await store.get(key, { range: { offset: 0, length: FIRST_READ_BYTES }, ...options });
    const length = parseHeaderLength(first.bytes, size);
    const end = LENGTH_BYTES + length;
    let bytes = first.bytes;
    if (bytes.byteLength < end) {
      const range = { offset: bytes.byteLength, length: end - bytes.byteLength };
      const rest = await store.get(key, { range, bytesMax: range.length, ...options });
      bytes = Buffer.concat([bytes, rest.bytes]);
    }
    return { key, etag, bytes: size, header: parseHeader(bytes.subarray(LENGTH_BYTES, end), size), digest };
  } catch (error) {
    if (!(error instanceof PlatformError) || error.code !== "corrupt") throw error;
    throw new PlatformError("corrupt", `${key}: ${error.message}`, { cause: error });
  }
}

async function readSmallFiles(
  store: ObjectStore,
  objects: ReadonlyMap<string, ObjectInfo>,
  signal: AbortSignal,
): Promise<Map<string, Uint8Array>> {
  const wanted = [...objects.values()].filter(({ key, size }) => {
    return (
      SMALL_FILE.test(key) &&
      size <= SMALL_FILE_BYTES_MAX &&
      key !== RECORD_FILE &&
      !key.endsWith(".index.json")
    );
  });
  const total = wanted.reduce((sum, { size }) => sum + size, 0);
  if (total > SMALL_FILES_BYTES_MAX) {
    throw new PlatformError(
      "resourceExhausted",
      `the repository has ${total} bytes of files beside its weights`,
      {
        remedy: `Keep them below ${SMALL_FILES_BYTES_MAX} bytes.`,
      },
    );
  }
  const contents = await inTurns(wanted, HEADERS_AT_ONCE, async ({ key, etag }) => {
    const { bytes } = await store.get(key, { ifMatch: etag, bytesMax: SMALL_FILE_BYTES_MAX, signal });
    return [key, bytes] as const;
  });
  return new Map(contents);
}

function object(objects: ReadonlyMap<string, ObjectInfo>, key: string): ObjectInfo {
  const info = objects.get(key);
  if (info !== undefined) return info;
  throw new PlatformError("notFound", `the shard index names ${key}, which is not there`, {
    remedy: "Upload the missing shard, or add the model again.",
  });
}

async function text(store: ObjectStore, { key, etag }: ObjectInfo, signal: AbortSignal): Promise<string> {
  const { bytes } = await store.get(key, { ifMatch: etag, bytesMax: JSON_BYTES_MAX, signal });
  return Buffer.from(bytes).toString("utf8");
}

/** Results in order; at most `atOnce` running. The first failure stops new ones from starting. */
async function inTurns<T, R>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < items.length) {
      const i = next++;
      results[i] = await work(items[i] as T);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  return results;
}
