// A model as the catalogue shows it: its record in short. Also where catalogue entries are found in a bucket.
import { createHash } from "node:crypto";
import type { ObjectStore } from "@pilotlight/object-store";
import { type ModelRecord, parseModelRecord, RECORD_BYTES_MAX, RECORD_FILE } from "./record.ts";

/** Models of a bucket lie under it, each in a folder. */
export const MODELS_FOLDER = "models";
const MODELS_MAX = 1_000;

export type CatalogueEntry = {
  /** What an application file names. */
  source: string;
  name: string;
  /** Where it came from, and what that meant when it was read. */
  from: string;
  revision: string;
  bytes: number;
  licence: string;
  terms: { files: string[]; link: string | null };
  recipe: string;
  tool: string | null;
  quantisation: string | null;
  /** Set where the weights are cut for a group of so many ranks. */
  ranks: number | null;
  /** Epoch ms. */
  addedAt: number;
  /** Of the record, which names the digest of every file: the identity of all bytes. */
  recordSha256: string;
};

export type FoundModel = { entry: CatalogueEntry; record: ModelRecord };

/** The model in a store, which `source` stands for; null where there is no record. Throws `corrupt` and the store's errors. */
export async function findModel(
  store: ObjectStore,
  source: string,
  signal: AbortSignal,
  folder = "",
): Promise<FoundModel | null> {
  const key = `${folder}${RECORD_FILE}`;
  if ((await store.head(key, { signal })) === undefined) return null;
  const { bytes } = await store.get(key, { bytesMax: RECORD_BYTES_MAX, signal });
  const record = parseModelRecord(Buffer.from(bytes).toString("utf8"));
  return { record, entry: entryOf(source, record, createHash("sha256").update(bytes).digest("hex")) };
}

/** The models of a bucket, by name. */
export async function* listModels(bucket: ObjectStore, signal: AbortSignal): AsyncGenerator<CatalogueEntry> {
  const prefix = `${MODELS_FOLDER}/`;
  let found = 0;
  for await (const { key } of bucket.list({ prefix, signal })) {
    const folder = key.slice(0, -RECORD_FILE.length);
    // What lies deeper belongs to a model that is cut for ranks.
    if (key !== `${folder}${RECORD_FILE}` || folder.split("/").length !== 3) continue;
    const model = await findModel(bucket, `bucket://${folder.slice(0, -1)}`, signal, folder);
    if (model !== null) yield model.entry;
    if (++found === MODELS_MAX) return;
  }
}

function entryOf(source: string, record: ModelRecord, recordSha256: string): CatalogueEntry {
  const { quantisation, terms, ranks, tool } = record;
  const group = quantisation?.groupSize === null ? "" : `-g${quantisation?.groupSize}`;
  return {
    source,
    name: record.name,
    from: record.source.uri,
    revision: record.source.revision,
    bytes: Object.values(record.files).reduce((sum, { bytes }) => sum + bytes, 0),
    licence: record.licence,
    terms: terms ?? { files: [], link: null },
    recipe: record.recipe,
    tool: tool ?? null,
    quantisation: quantisation === undefined ? null : `${quantisation.scheme}${group}`,
    ranks: ranks ?? null,
    addedAt: Date.parse(record.addedAt),
    recordSha256,
  };
}
