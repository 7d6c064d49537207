// Chunks that the bucket holds already, from the records of layers converted earlier: an image's next version stores only
// what changed.
import {
  decodeLayerChunks,
  LAYER_RECORD_HEAD_BYTES,
  LAYERS_PREFIX,
  type LayerChunks,
  type LayerPack,
  layerChunksEnd,
} from "@pilotlight/image-format";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";

export type KnownChunk = {
  pack: LayerPack;
  packOffset: number;
  wireLength: number;
  encoding: "raw" | "zstd";
  rawLength: number;
};

export class KnownChunks {
  readonly #chunks = new Map<string, KnownChunk>();

  get(sha256: Buffer): KnownChunk | undefined {
    return this.#chunks.get(sha256.toString("latin1"));
  }

  get size(): number {
    return this.#chunks.size;
  }

  add(layer: LayerChunks, max: number): void {
    for (const chunk of layer.chunks) {
      if (this.#chunks.size >= max) return;
      const pack = layer.packs[chunk.pack];
      if (chunk.encoding === "zeros" || pack === undefined) continue;
      const { packOffset, wireLength, encoding, rawLength } = chunk;
      const key = chunk.sha256.toString("latin1");
      // The first that is seen stays: the newest record names packs that live longest.
      if (!this.#chunks.has(key))
        this.#chunks.set(key, { pack, packOffset, wireLength, encoding, rawLength });
    }
  }
}

/** Loads the newest records until `max` chunks are known. Records that cannot be read are passed over: they only save work. */
export async function loadKnownChunks(
  bucket: ObjectStore,
  max: number,
  signal: AbortSignal,
): Promise<KnownChunks> {
  const known = new KnownChunks();
  const records: ObjectInfo[] = [];
  for await (const info of bucket.list({ prefix: LAYERS_PREFIX, signal })) records.push(info);
  // By time, then by name: the order must not depend on the listing.
  records.sort((a, b) => b.modifiedAt - a.modifiedAt || (a.key < b.key ? -1 : 1));
  for (const { key } of records) {
    if (known.size >= max) break;
    try {
      known.add(await readChunks(bucket, key, signal), max);
    } catch {
      signal.throwIfAborted();
    }
  }
  return known;
}

async function readChunks(bucket: ObjectStore, key: string, signal: AbortSignal): Promise<LayerChunks> {
  const head = await bucket.get(key, { range: { offset: 0, length: LAYER_RECORD_HEAD_BYTES }, signal });
  const length = layerChunksEnd(Buffer.from(head.bytes));
  const { bytes } = await bucket.get(key, { range: { offset: 0, length }, ifMatch: head.info.etag, signal });
  return decodeLayerChunks(Buffer.from(bytes));
}
