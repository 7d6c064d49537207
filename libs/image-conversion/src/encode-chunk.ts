// What becomes of one chunk: its identity, and the form in which it is stored if it has to be.
import type { ChunkEncoding } from "@pilotlight/image-format";
import { sha256, zstdFrame } from "./codec.ts";

export type EncodedChunk = { sha256: Buffer; rawLength: number; encoding: ChunkEncoding; wire: Buffer };

/** `level` 0: not compressed. */
export type EncodeOptions = { level: number; gainMin: number };

const ZEROS = Buffer.alloc(4 << 20);

/** Hashes, and compresses unless `isKnown` says that the bytes need not be stored. `raw` must not change meanwhile. */
export async function encodeChunk(
  raw: Buffer,
  options: EncodeOptions,
  isKnown: (sha256: Buffer) => boolean = () => false,
): Promise<EncodedChunk> {
  const rawLength = raw.length;
  const hash = await sha256(raw);
  if (raw.equals(ZEROS.subarray(0, rawLength)))
    return { sha256: hash, rawLength, encoding: "zeros", wire: Buffer.alloc(0) };
  if (isKnown(hash)) return { sha256: hash, rawLength, encoding: "raw", wire: Buffer.alloc(0) };
  if (options.level === 0) return { sha256: hash, rawLength, encoding: "raw", wire: raw };
  const wire = await zstdFrame(raw, options.level);
  if (wire.length > rawLength * (1 - options.gainMin))
    return { sha256: hash, rawLength, encoding: "raw", wire: raw };
  return { sha256: hash, rawLength, encoding: "zstd", wire };
}
