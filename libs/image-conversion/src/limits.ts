// What bounds a conversion: memory, work in flight, and what an image may hold. Every value has its unit in its name.
import { DEFAULT_LAYER_LIMITS, type LayerLimits } from "@pilotlight/image-format";

export type ConvertLimits = {
  /** Size of the chunks that content is cut into: a power of two from 64 KiB to 4 MiB. Part of the layers' keys. */
  chunkBytes: number;
  /** zstd level; 0: nothing is compressed. Higher levels cost more time than they save bytes. */
  compressionLevel: number;
  /** A chunk is stored as it is unless compression saves at least this share of it. */
  compressionGainMin: number;
  /** A pack is closed before it grows beyond this. Each layer in work holds one in memory. */
  packBytes: number;
  /** Layers read at the same time. */
  layersInFlightMax: number;
  /** Chunks being hashed and compressed, over all layers. */
  chunksInFlightMax: number;
  /** Packs on their way to the bucket. */
  uploadsInFlightMax: number;
  /** Chunks of earlier conversions that are looked up to avoid uploading them again, newest layers first. */
  knownChunksMax: number;
  /** Uncompressed bytes of one layer's archive, headers included: what stops a bomb. */
  archiveBytesMax: number;
  layer: LayerLimits;
};

export const DEFAULT_CONVERT_LIMITS: ConvertLimits = {
  chunkBytes: 512 << 10,
  compressionLevel: 2,
  compressionGainMin: 0.03,
  packBytes: 24 << 20,
  layersInFlightMax: 3,
  chunksInFlightMax: 24,
  uploadsInFlightMax: 2,
  knownChunksMax: 200_000,
  archiveBytesMax: 1024 * 2 ** 30,
  layer: DEFAULT_LAYER_LIMITS,
};
