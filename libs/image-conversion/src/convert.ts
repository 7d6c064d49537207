// The conversion: an OCI image becomes a lazily mountable one in the bucket, once per manifest digest.
//   V1. Idempotent: the image object is created, never replaced. Whoever comes second gets what the first one wrote.
//   V2. Resumable: finished layers have records; what was cut off starts again with the layers that have none.
//   V3. Bounded: limits.ts says how much is in flight, whatever the image's size. Only entries (not content) grow with it.
//   V4. Deterministic: the same image and limits give the same imageId, whatever the bucket held before.
import { createHash } from "node:crypto";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  assembleImage,
  BLOB_KINDS,
  blobSize,
  checkChunkBytes,
  digestHex,
  encodeImageFile,
  type ImageManifest,
  type IndexChunk,
  imageKey,
  type LayerRecord,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import {
  type ImageLayer,
  type ImagePolicy,
  type OpenedImage,
  openImage,
  type Platform,
  type RegistryOptions,
} from "@pilotlight/oci";
import { BufferPool } from "./buffer-pool.ts";
import { enterChains } from "./chains.ts";
import { convertLayer, type LayerContext, readLayerRecord } from "./convert-layer.ts";
import { encodeChunk } from "./encode-chunk.ts";
import { KnownChunks, loadKnownChunks } from "./known-chunks.ts";
import { type ConvertLimits, DEFAULT_CONVERT_LIMITS } from "./limits.ts";
import { type ConvertProgress, ProgressMeter } from "./progress.ts";
import { readImageManifest } from "./read-image.ts";
import { Semaphore } from "./semaphore.ts";

export type ConvertRequest = {
  /** `registry/repository:tag`, `…@sha256:…` or `oci:///dir[:tag]`. */
  source: string;
  bucket: ObjectStore;
  /** Default: this machine's. */
  platform?: Platform;
  registry?: RegistryOptions;
  /** Which images may be converted; checked each time, for an image that is there already too. Default: any. */
  policy?: ImagePolicy;
  limits?: Partial<ConvertLimits>;
  onProgress?: (progress: ConvertProgress) => void;
  signal?: AbortSignal;
  /** Epoch ms, for progress only. */
  now?: () => number;
};

export type ConvertedImage = {
  /** Identity of the converted image: hex SHA-256, see docs/image-format.md. */
  imageId: string;
  /** Digest of the OCI image manifest; `mountImage` takes it together with the bucket. */
  manifestDigest: string;
  /** `<bucket uri>/images/<hex>`: where the image object stands. */
  uri: string;
  /** The source pinned to the digest, e.g. `docker.io/library/nginx@sha256:…`. */
  reference: string;
  platform: string;
  sizes: ImageManifest["sizes"];
  /** What this conversion sent to the bucket. */
  uploadedBytes: number;
  /** Content that the bucket had already. */
  reusedBytes: number;
  /** The image object was there before: nothing was done. */
  alreadyConverted: boolean;
};

/**
 * Converts an image. Throws `notFound`, `unauthenticated`, `permissionDenied`, `unavailable` (registry or bucket),
 * `unsupported` and `corrupt` (the image), `resourceExhausted` (a limit), `cancelled`.
 */
export async function convertImage(request: ConvertRequest): Promise<ConvertedImage> {
  const limits: ConvertLimits = { ...DEFAULT_CONVERT_LIMITS, ...request.limits };
  checkChunkBytes(limits.chunkBytes);
  const progress = new ProgressMeter(request.onProgress ?? (() => undefined), request.now ?? Date.now);
  // One layer's failure stops the others; the caller's signal stops all.
  const stop = new AbortController();
  const signal = request.signal === undefined ? stop.signal : AbortSignal.any([request.signal, stop.signal]);
  try {
    progress.phase("resolving");
    const image = await openImage(request.source, {
      ...request.registry,
      ...(request.platform && { platform: request.platform }),
      ...(request.policy && { policy: request.policy }),
      signal,
    });
    progress.resolved(image.manifestDigest);
    const existing = await readImageManifest(request.bucket, image.manifestDigest, signal);
    if (existing !== undefined) {
      await enterChains(request.bucket, image.manifestDigest, existing.ociConfig, signal);
      return result(request, image, existing, progress, true);
    }
    progress.phase("layers");
    const layers = await convertLayers(image, request.bucket, limits, progress, stop, signal);
    progress.phase("assembling");
    const written = await writeImage(image, layers, request.bucket, limits, progress, signal);
    await enterChains(request.bucket, image.manifestDigest, written.manifest.ociConfig, signal);
    progress.phase("done");
    return result(request, image, written.manifest, progress, !written.created);
  } catch (error) {
    if (request.signal?.aborted === true)
      throw new PlatformError("cancelled", "the conversion was cancelled", { cause: error });
    throw toPlatformError(error);
  } finally {
    stop.abort();
  }
}

/** Converts an opened image with the usual limits, unless the bucket has it. Throws as `convertImage` does. */
export async function convertOpened(
  image: OpenedImage,
  bucket: ObjectStore,
  signal: AbortSignal,
): Promise<void> {
  if ((await readImageManifest(bucket, image.manifestDigest, signal)) !== undefined) return;
  const progress = new ProgressMeter(() => undefined, Date.now);
  const stop = new AbortController();
  try {
    const either = AbortSignal.any([signal, stop.signal]);
    const layers = await convertLayers(image, bucket, DEFAULT_CONVERT_LIMITS, progress, stop, either);
    await writeImage(image, layers, bucket, DEFAULT_CONVERT_LIMITS, progress, either);
  } finally {
    stop.abort();
  }
}

async function convertLayers(
  image: OpenedImage,
  bucket: ObjectStore,
  limits: ConvertLimits,
  progress: ProgressMeter,
  stop: AbortController,
  signal: AbortSignal,
): Promise<LayerRecord[]> {
  // The same layer may stand in an image twice (empty layers do): it is converted once.
  const distinct = new Map(image.layers.map((layer) => [layer.diffId, layer]));
  const records = new Map<string, LayerRecord>();
  const missing: ImageLayer[] = [];
  for (const layer of distinct.values()) {
    const record = await readLayerRecord(bucket, layer.diffId, limits, signal);
    if (record === undefined) missing.push(layer);
    else records.set(layer.diffId, record);
  }
  progress.expect(
    distinct.size,
    missing.reduce((sum, layer) => sum + layer.size, 0),
  );
  for (const _ of records) progress.layerDone();
  const known =
    missing.length === 0 ? new KnownChunks() : await loadKnownChunks(bucket, limits.knownChunksMax, signal);
  const context: LayerContext = {
    bucket,
    limits,
    known,
    buffers: new BufferPool(limits.chunkBytes, limits.chunksInFlightMax),
    // No chunk is stored in more bytes than it has.
    packBuffers: new BufferPool(Math.max(limits.packBytes, limits.chunkBytes), limits.uploadsInFlightMax),
    uploads: new Semaphore(limits.uploadsInFlightMax),
    progress,
    signal,
  };
  const slots = new Semaphore(limits.layersInFlightMax);
  const convert = (layer: ImageLayer) =>
    slots.run(async () => {
      signal.throwIfAborted();
      records.set(layer.diffId, await convertLayer(image, layer, context));
      progress.layerDone();
    });
  const settled = await Promise.allSettled(
    missing.map((layer) =>
      convert(layer).catch((error: unknown) => {
        stop.abort(error);
        throw error;
      }),
    ),
  );
  // The first failure stopped the others: theirs are only its echo.
  if (settled.some(({ status }) => status === "rejected"))
    throw signal.reason ?? new PlatformError("internal", "a layer failed");
  return image.layers.map((layer) => records.get(layer.diffId) as LayerRecord);
}

async function writeImage(
  image: OpenedImage,
  layers: LayerRecord[],
  bucket: ObjectStore,
  limits: ConvertLimits,
  progress: ProgressMeter,
  signal: AbortSignal,
): Promise<{ manifest: ImageManifest; created: boolean }> {
  const assembled = assembleImage(layers, {
    metadataPieceBytes: limits.chunkBytes,
    uuid: createHash("sha256").update(image.manifestDigest).digest().subarray(0, 16),
  });
  const metadata = await encodeMetadata(assembled.metadata.pieces(), limits);
  const { bytes, manifest } = encodeImageFile({
    manifestDigest: image.manifestDigest,
    platform: image.platform,
    ociManifest: image.manifest.toString("utf8"),
    ociConfig: image.config.toString("utf8"),
    index: {
      blobs: [{ kind: BLOB_KINDS.erofsMetadata, chunks: metadata.chunks }, assembled.data],
      packs: [{ sha256: Buffer.alloc(32), size: metadata.pack.length }, ...assembled.packs],
    },
    metadataPack: metadata.pack,
    sizes: {
      contentBytes: assembled.contentBytes,
      files: assembled.files,
      dataBytes: blobSize(assembled.data),
      wireBytes: distinctWireBytes(assembled.data.chunks),
      metadataBytes: assembled.metadata.size,
    },
  });
  try {
    await bucket.put(imageKey(image.manifestDigest), bytes, { ifNoneMatch: "*", signal });
    progress.uploaded(bytes.length, true);
    return { manifest, created: true };
  } catch (error) {
    if (toPlatformError(error).code !== "preconditionFailed") throw error;
    // Another converter was faster (V1).
    const theirs = await readImageManifest(bucket, image.manifestDigest, signal);
    if (theirs === undefined)
      throw new PlatformError("unavailable", "the image appeared and vanished while it was written", {
        cause: error,
      });
    return { manifest: theirs, created: false };
  }
}

async function encodeMetadata(
  pieces: Iterable<Buffer>,
  limits: ConvertLimits,
): Promise<{ chunks: IndexChunk[]; pack: Buffer }> {
  const chunks: IndexChunk[] = [];
  const stored: Buffer[] = [];
  let packOffset = 0;
  for (const piece of pieces) {
    // Metadata are small and read at every start: a higher level pays here.
    const encoded = await encodeChunk(piece, piece.length, { level: 6, gainMin: limits.compressionGainMin });
    const { sha256, rawLength, encoding, wire } = encoded;
    chunks.push({
      sha256,
      rawLength,
      encoding,
      pack: 0,
      packOffset: encoding === "zeros" ? 0 : packOffset,
      wireLength: wire.length,
    });
    stored.push(wire);
    packOffset += wire.length;
  }
  return { chunks, pack: Buffer.concat(stored) };
}

function distinctWireBytes(chunks: readonly IndexChunk[]): number {
  const seen = new Set<string>();
  let bytes = 0;
  for (const { pack, packOffset, wireLength } of chunks) {
    const key = `${pack}:${packOffset}`;
    if (!seen.has(key)) bytes += wireLength;
    seen.add(key);
  }
  return bytes;
}

function result(
  request: ConvertRequest,
  image: OpenedImage,
  manifest: ImageManifest,
  progress: ProgressMeter,
  alreadyConverted: boolean,
): ConvertedImage {
  const name = image.reference.replace(/@.*$/, "").replace(/:[^/:]+$/, "");
  return {
    imageId: manifest.imageId,
    manifestDigest: manifest.manifestDigest,
    uri: `${request.bucket.uri.replace(/\/+$/, "")}/images/${digestHex(manifest.manifestDigest)}`,
    reference: `${name}@${manifest.manifestDigest}`,
    platform: manifest.platform,
    sizes: manifest.sizes,
    uploadedBytes: progress.uploadedBytes,
    reusedBytes: progress.reusedBytes,
    alreadyConverted,
  };
}
