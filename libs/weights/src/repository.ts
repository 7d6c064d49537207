// A model repository as the streamer sees it before the first byte of weights: which files, pinned by ETag, their
// headers read and checked, the small files that an engine wants beside them. Everything later is read under these
// pins, so a file that is replaced during a load is an error, never a mixture.
import { createHash } from "node:crypto";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type FileDigest, type ModelRecord, parseModelRecord, RECORD_FILE } from "@pilotlight/models/record";
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
  type TensorEntry,
  type WeightFiles,
} from "@pilotlight/safetensors";

const MiB = 1024 * 1024;
/** Read at once with the length field: nearly every header fits, so one request does. */
const FIRST_READ_BYTES = 256 * 1024;
const JSON_BYTES_MAX = 64 * MiB;
const SMALL_FILE_BYTES_MAX = 64 * MiB;
/** They travel in one message of gRPC (96 MiB at most), with the tensors' names. */
const SMALL_FILES_BYTES_MAX = 80 * MiB;
const HEADERS_AT_ONCE = 8;
/** What engines read beside the weights. */
const SMALL_FILE = /\.(json|jinja|txt|model|tiktoken)$/;
const SHARD_FILE = /^[^/]+\.safetensors$/;
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
  /** What was recorded when Pilotlight added the model. */
  record: ModelRecord | undefined;
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

/** All tensors, file by file, front to back. */
export function tensorsOf({ weights }: Pick<Repository, "weights">): { file: number; tensor: TensorEntry }[] {
  return weights.flatMap(({ header }, file) => header.tensors.map((tensor) => ({ file, tensor })));
}

/** The free-form strings of the headers; of several files' equal keys the last. */
export function metadataOf({ weights }: Pick<Repository, "weights">): Map<string, string> {
  return new Map(weights.flatMap(({ header }) => [...header.metadata]));
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
  // Everything that the listing names is asked for at once: each round trip is time in which no weights move.
  const [headers, recordText, index, files] = await Promise.all([
    readHeaders(store, likelyShards(found, objects), signal),
    textIfThere(store, objects.get(RECORD_FILE), signal),
    found.kind === "sharded" ? text(store, object(objects, found.index), signal).then(parseIndex) : undefined,
    readSmallFiles(store, objects, signal),
  ]);
  const keys = found.kind === "single" ? [found.file] : (index?.shards ?? []);
  const record = recordText === undefined ? undefined : parseModelRecord(recordText);
  const digests = record?.files ?? {};
  const missing = keys.filter((key) => !headers.has(key)).map((key) => object(objects, key));
  for (const [key, header] of await readHeaders(store, missing, signal)) headers.set(key, header);
  const weights = keys.map((key) => weightFile(object(objects, key), headers.get(key), digests[key]));
  if (index !== undefined) checkShards(index, new Map(weights.map(({ key, header }) => [key, header])));
  return {
    record,
    weights,
    files,
    bytesTotal: weights.reduce((sum, { bytes }) => sum + bytes, 0),
    tensorsTotal: weights.reduce((sum, { header }) => sum + header.tensors.length, 0),
  };
}

/** The shards, as far as the listing tells before the index was read. */
function likelyShards(found: WeightFiles, objects: ReadonlyMap<string, ObjectInfo>): ObjectInfo[] {
  if (found.kind === "single") return [object(objects, found.file)];
  return [...objects.values()].filter(({ key }) => SHARD_FILE.test(key));
}

/** Headers by key, of files of any kind of name. One that cannot be read is an error only where it is needed. */
async function readHeaders(
  store: ObjectStore,
  infos: readonly ObjectInfo[],
  signal: AbortSignal,
): Promise<Map<string, SafetensorsHeader | PlatformError>> {
  const read = await inTurns(infos, HEADERS_AT_ONCE, async (info) => {
    const header = await readHeader(store, info, signal).catch(toPlatformError);
    return [info.key, header] as const;
  });
  return new Map(read);
}

function weightFile(
  { key, etag, size }: ObjectInfo,
  header: SafetensorsHeader | PlatformError | undefined,
  digest: FileDigest | undefined,
): WeightFile {
  if (digest !== undefined && digest.bytes !== size) {
    throw new PlatformError("corrupt", `${key} has ${size} bytes, its record says ${digest.bytes}`, {
      remedy: "Add the model again with `pilotlight model add`.",
    });
  }
  if (header === undefined) throw new PlatformError("internal", `${key}: its header was not read`);
  if (header instanceof PlatformError) throw header;
  return { key, etag, bytes: size, header, digest };
}

async function readHeader(
  store: ObjectStore,
  { key, etag, size }: ObjectInfo,
  signal: AbortSignal,
): Promise<SafetensorsHeader> {
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
    return parseHeader(bytes.subarray(LENGTH_BYTES, end), size);
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

async function textIfThere(
  store: ObjectStore,
  info: ObjectInfo | undefined,
  signal: AbortSignal,
): Promise<string | undefined> {
  return info === undefined ? undefined : text(store, info, signal);
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
