// One layer, from the registry's compressed stream to packs and a record in the bucket, in one pass and in bounded memory.
//   L1. The record is written last: a record that is there means that its packs are there.
//   L2. Nothing is written before the layer's own digests are checked except packs, which name themselves; a layer that
//       turns out wrong leaves packs that no record names, and garbage collection removes them.
import { createHash } from "node:crypto";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  decodeLayerRecord,
  encodeLayerRecord,
  type LayerChunk,
  type LayerPack,
  type LayerRecord,
  LayerScanner,
  layerKey,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import { decompressed, type ImageLayer, type OpenedImage } from "@pilotlight/oci";
import type { BufferPool } from "./buffer-pool.ts";
import { type EncodedChunk, encodeChunk } from "./encode-chunk.ts";
import type { KnownChunk, KnownChunks } from "./known-chunks.ts";
import type { ConvertLimits } from "./limits.ts";
import { PackWriter } from "./pack-writer.ts";
import type { ProgressMeter } from "./progress.ts";
import type { Semaphore } from "./semaphore.ts";

/** What the layers of one conversion share. */
export type LayerContext = {
  bucket: ObjectStore;
  limits: ConvertLimits;
  known: KnownChunks;
  buffers: BufferPool;
  packBuffers: BufferPool;
  uploads: Semaphore;
  progress: ProgressMeter;
  signal: AbortSignal;
};

/** A layer's record as the bucket holds it, or undefined. A damaged record counts as absent. */
export async function readLayerRecord(
  bucket: ObjectStore,
  diffId: string,
  limits: ConvertLimits,
  signal: AbortSignal,
): Promise<LayerRecord | undefined> {
  try {
    const { bytes } = await bucket.get(layerKey(diffId, limits.chunkBytes), { bytesMax: 1 << 30, signal });
    return decodeLayerRecord(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch (thrown) {
    const { code } = toPlatformError(thrown);
    if (code === "notFound" || code === "corrupt" || code === "unsupported") return undefined;
    throw thrown;
  }
}

/** Converts a layer. Throws `corrupt` or `unsupported` for hostile or damaged layers, and what bucket and registry throw. */
export async function convertLayer(
  image: OpenedImage,
  layer: ImageLayer,
  context: LayerContext,
): Promise<LayerRecord> {
  const { bucket, limits, signal } = context;
  const assembly = new LayerAssembly(context);
  const scanner = new LayerScanner(limits.chunkBytes, assembly, limits.layer);
  try {
    let diffId: string | undefined;
    let archiveBytes = 0;
    const compressed = counted(image.layer(layer, signal), (bytes) => context.progress.read(bytes));
    const onDigest = (digest: string) => {
      diffId = digest;
    };
    for await (const piece of decompressed(compressed, { onDigest })) {
      archiveBytes += piece.length;
      if (archiveBytes > limits.archiveBytesMax) {
        throw new PlatformError(
          "resourceExhausted",
          `layer ${layer.digest} unpacks to more than ${limits.archiveBytesMax} bytes`,
          {
            remedy: "Raise the converter's archiveBytesMax if the image is trusted.",
          },
        );
      }
      for (let taken = 0; taken < piece.length; ) {
        taken += scanner.push(piece.subarray(taken));
        await assembly.room();
      }
      context.progress.unpacked(piece.length);
    }
    if (diffId !== layer.diffId) {
      throw new PlatformError(
        "corrupt",
        `layer ${layer.digest} unpacks to ${diffId}, its config says ${layer.diffId}`,
        {
          remedy: "The image is inconsistent; build and push it again.",
        },
      );
    }
    scanner.finish();
    const stored = await assembly.finish();
    context.buffers.freeIdle();
    context.packBuffers.freeIdle();
    const record: LayerRecord = { entries: scanner.entries, contentBytes: scanner.contentBytes, ...stored };
    await bucket.put(layerKey(layer.diffId, limits.chunkBytes), encodeLayerRecord(record), { signal });
    return record;
  } catch (error) {
    await assembly.abandon();
    throw error;
  }
}

async function* counted(
  source: AsyncIterable<Buffer>,
  count: (bytes: number) => void,
): AsyncGenerator<Buffer> {
  for await (const piece of source) {
    count(piece.length);
    yield piece;
  }
}

const NOT_STORED = { encoding: "zeros", pack: 0, packOffset: 0, wireLength: 0 } as const;

/** The layer's chunks on their way: encoded in parallel, placed in order. Is the scanner's chunk sink. */
class LayerAssembly {
  readonly #context: LayerContext;
  readonly #packs: PackWriter;
  readonly #chunks: LayerChunk[] = [];
  /** Chunks of this layer by hash: of equal chunks one is stored. */
  readonly #own = new Map<string, LayerChunk>();
  /** Packs of other layers that known chunks stand in; numbered after this layer's own at the end. */
  readonly #foreign = new Map<string, { pack: LayerPack; chunks: LayerChunk[] }>();
  /** What all chunks of holes are. */
  #zeros: LayerChunk | undefined;
  #tail: Promise<void> = Promise.resolve();
  #failure: unknown;

  constructor(context: LayerContext) {
    this.#context = context;
    this.#packs = new PackWriter({
      bucket: context.bucket,
      packBytes: context.limits.packBytes,
      buffers: context.packBuffers,
      uploads: context.uploads,
      signal: context.signal,
      onUpload: (bytes, stored) => context.progress.uploaded(bytes, stored),
    });
  }

  acquire(): Buffer {
    return this.#context.buffers.acquire();
  }

  chunk(number: number, buffer: Buffer, length: number): void {
    const { limits, known, buffers } = this.#context;
    buffers.busy();
    const options = { level: limits.compressionLevel, gainMin: limits.compressionGainMin };
    const isKnown = known.size === 0 ? undefined : (hash: Buffer) => known.get(hash) !== undefined;
    const encoded = encodeChunk(buffer, length, options, isKnown);
    // Seen by the chain below; without this, a failure while an earlier chunk is placed would count as unhandled.
    encoded.catch(() => undefined);
    this.#tail = this.#tail
      .then(async () => {
        if (this.#failure === undefined) await this.#place(number, await encoded);
      })
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => encoded.catch(() => undefined).then(() => buffers.release(buffer)));
  }

  zeros(number: number): void {
    const { chunkBytes } = this.#context.limits;
    this.#zeros ??= {
      sha256: createHash("sha256").update(Buffer.alloc(chunkBytes)).digest(),
      rawLength: chunkBytes,
      ...NOT_STORED,
    };
    this.#chunks[number] = this.#zeros;
  }

  /** Waits until more chunks may come. */
  async room(): Promise<void> {
    await this.#context.buffers.belowLimit();
    if (this.#failure !== undefined) throw this.#failure;
  }

  async finish(): Promise<{ chunks: LayerChunk[]; packs: LayerPack[] }> {
    await this.#tail;
    if (this.#failure !== undefined) throw this.#failure;
    const packs = [...(await this.#packs.finish())];
    for (const { pack, chunks } of this.#foreign.values()) {
      for (const chunk of chunks) chunk.pack = packs.length;
      packs.push(pack);
    }
    return { chunks: this.#chunks, packs };
  }

  /** After a failure: nothing goes on in the background. */
  async abandon(): Promise<void> {
    this.#failure ??= new PlatformError("cancelled", "the conversion was given up");
    await this.#tail;
    await this.#packs.finish().catch(() => undefined);
  }

  async #place(number: number, { sha256, rawLength, encoding, wire }: EncodedChunk): Promise<void> {
    const key = sha256.toString("latin1");
    const before = this.#own.get(key);
    const known = before === undefined ? this.#context.known.get(sha256) : undefined;
    let chunk: LayerChunk;
    if (encoding === "zeros") chunk = { sha256, rawLength, ...NOT_STORED };
    else if (before !== undefined) chunk = this.#again(before);
    else if (known !== undefined) chunk = this.#known(sha256, known);
    else chunk = { sha256, rawLength, encoding, wireLength: wire.length, ...(await this.#packs.add(wire)) };
    this.#own.set(key, chunk);
    this.#chunks[number] = chunk;
  }

  #again(chunk: LayerChunk): LayerChunk {
    const copy = { ...chunk };
    for (const { chunks } of this.#foreign.values()) if (chunks.includes(chunk)) chunks.push(copy);
    return copy;
  }

  #known(sha256: Buffer, { pack, rawLength, packOffset, wireLength, encoding }: KnownChunk): LayerChunk {
    const chunk = { sha256, rawLength, packOffset, wireLength, encoding, pack: -1 };
    const key = pack.sha256.toString("latin1");
    const entry = this.#foreign.get(key) ?? { pack, chunks: [] };
    entry.chunks.push(chunk);
    this.#foreign.set(key, entry);
    this.#context.progress.reused(rawLength);
    return chunk;
  }
}
