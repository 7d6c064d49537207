// Chunks of images hashed and compressed by native code: no stream and no buffer for each, which for images of many small files is
// most of what a conversion costs. Whoever has no addon does the same with Node's own means, slower.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

/** What becomes of a chunk. `wireLength` bytes at the beginning of its buffer are to be stored. */
export type Encoded = { sha256: Buffer; encoding: 0 | 1 | 2; wireLength: number };

export const CODEC_RAW = 0;
export const CODEC_ZSTD = 1;
export const CODEC_ZEROS = 2;

export type Codec = {
  /**
   * Hashes the first `length` bytes of `buffer` and, with a level, puts a zstd frame in their place where that saves at least
   * `gainMin` of them. The buffer belongs to the codec until the promise has settled.
   */
  encode(buffer: Buffer, length: number, level: number | null, gainMin: number): Promise<Encoded>;
};

const ADDON = fileURLToPath(new URL("../codec.node", import.meta.url));

/** Undefined where the addon is not built, or not for this machine. */
export function openCodec(): Codec | undefined {
  try {
    return createRequire(import.meta.url)(ADDON) as Codec;
  } catch {
    return undefined;
  }
}
