// From the records of an image's layers to the image: merge, keep the chunks that some file still shows, lay them out one
// after the other as the data blob, and write the EROFS metadata that points into it.
import { PlatformError } from "@pilotlight/errors";
import { type ErofsImage, erofsImage } from "./erofs/write.ts";
import type { IndexBlob, IndexChunk, IndexPack } from "./image-index.ts";
import { BLOB_KINDS } from "./image-index.ts";
import type { LayerRecord } from "./layer-record.ts";
import { type ContentPlace, type Inode, LayerMerger, walk } from "./merge.ts";

export type Assembled = {
  root: Inode;
  metadata: ErofsImage;
  data: IndexBlob;
  /** Packs of the data blob. Position 0 is left for the image's own object. */
  packs: IndexPack[];
  /** Distinct files and their bytes. */
  files: number;
  contentBytes: number;
};

export type AssembleOptions = {
  /** Size of the pieces in which the metadata are handed out: its chunks. */
  metadataPieceBytes: number;
  /** 16 bytes that name the file system, made from the image's digest. */
  uuid: Buffer;
};

/** `layers` from the bottom up. Throws `corrupt` when they cannot be merged. */
export function assembleImage(layers: readonly LayerRecord[], options: AssembleOptions): Assembled {
  const merger = new LayerMerger();
  for (const layer of layers) merger.apply(layer.entries);
  const live = layers.map((layer) => new Uint8Array(layer.chunks.length));
  let files = 0;
  let contentBytes = 0;
  for (const { inode, first } of walk(merger.root)) {
    if (!first || inode.kind !== "file") continue;
    files++;
    contentBytes += inode.size;
    if (inode.content !== undefined) markLive(inode.content, inode.size, layers, live);
  }
  const packs = new PackTable();
  const data: IndexBlob = { kind: BLOB_KINDS.erofsData, chunks: [] };
  const offsets = layers.map((layer) => new Float64Array(layer.chunks.length));
  let offset = 0;
  layers.forEach((layer, l) => {
    layer.chunks.forEach((chunk, c) => {
      if (live[l]?.[c] !== 1) return;
      (offsets[l] as Float64Array)[c] = offset;
      offset += chunk.rawLength;
      data.chunks.push(packs.place(chunk, layer));
    });
  });
  const metadata = erofsImage(merger.root, {
    contentOffset: ({ content }) =>
      content === undefined ? 0 : (offsets[content.layer]?.[content.chunk] ?? 0) + content.offset,
    dataBytes: offset,
    uuid: options.uuid,
    pieceBytes: options.metadataPieceBytes,
  });
  return { root: merger.root, metadata, data, packs: packs.packs, files, contentBytes };
}

/** A file's chunks are numbered consecutively (chunker C4), so its content stays one run when all of them live. */
function markLive(
  content: ContentPlace,
  size: number,
  layers: readonly LayerRecord[],
  live: Uint8Array[],
): void {
  const layer = layers[content.layer];
  let left = size;
  let offset = content.offset;
  for (let c = content.chunk; left > 0; c++) {
    const chunk = layer?.chunks[c];
    if (chunk === undefined || offset >= chunk.rawLength) {
      throw new PlatformError("corrupt", "a layer record places a file outside its chunks", {
        remedy: "Delete the bucket's layers/ folder; the next conversion writes it again.",
      });
    }
    (live[content.layer] as Uint8Array)[c] = 1;
    left -= chunk.rawLength - offset;
    offset = 0;
  }
}

/** The packs of all layers, each once. */
class PackTable {
  readonly packs: IndexPack[] = [];
  readonly #numbers = new Map<string, number>();

  place(chunk: LayerRecord["chunks"][number], layer: LayerRecord): IndexChunk {
    const { sha256, rawLength, encoding } = chunk;
    if (encoding === "zeros") return { sha256, rawLength, encoding, pack: 0, packOffset: 0, wireLength: 0 };
    const pack = layer.packs[chunk.pack];
    if (pack === undefined)
      throw new PlatformError("corrupt", "a layer record names a pack that it does not list");
    const key = pack.sha256.toString("hex");
    let number = this.#numbers.get(key);
    if (number === undefined) {
      this.packs.push(pack);
      number = this.packs.length;
      this.#numbers.set(key, number);
    }
    return {
      sha256,
      rawLength,
      encoding,
      pack: number,
      packOffset: chunk.packOffset,
      wireLength: chunk.wireLength,
    };
  }
}
