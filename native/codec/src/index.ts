// What a conversion does with every byte, by native code and into buffers that are used again: layers uncompressed and hashed,
// chunks hashed and compressed. With a stream and a buffer for each piece, most of what it costs is handling those. Whoever has
// no addon does the same with Node's own means, slower.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

/** What becomes of a chunk. `wireLength` bytes at the beginning of its buffer are to be stored. */
export type Encoded = { sha256: Buffer; encoding: 0 | 1 | 2; wireLength: number };

export const CODEC_RAW = 0;
export const CODEC_ZSTD = 1;
export const CODEC_ZEROS = 2;

/** One gzip stream of any number of members. One step at a time; both buffers belong to it until the promise has settled. */
export type Gunzip = {
  /** Takes input from `from` on and fills `output` from `at` on, until one of them is used up. Rejects for a damaged stream. */
  step(input: Buffer, from: number, output: Buffer, at: number): Promise<{ read: number; written: number }>;
  /** The input is over: the SHA-256 of the output. Throws where the stream is not. */
  finish(): Buffer;
};

/** SHA-256 piece by piece. A piece belongs to the hash until `update` has settled; one at a time. */
export type Sha256Stream = {
  update(piece: Buffer): Promise<void>;
  /** The hash of all pieces. */
  digest(): Buffer;
};

export type Codec = {
  Gunzip: new () => Gunzip;
  Sha256Stream: new () => Sha256Stream;
  forgetCached(fd: number, offset: number, length: number): void;
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

/** Off the event loop where the addon is built. */
export function createSha256(): Sha256Stream {
  const codec = openCodec();
  if (codec !== undefined) return new codec.Sha256Stream();
  const hash = createHash("sha256");
  return {
    update: async (piece) => void hash.update(piece),
    digest: () => hash.digest(),
  };
}

/**
 * Tells the kernel that these bytes of an open file will not be read again soon, so that it uses their memory for what comes next.
 * Does nothing where the addon is not built, or on other systems than Linux.
 */
export function forgetCached(fd: number, offset: number, length: number): void {
  openCodec()?.forgetCached(fd, offset, length);
}
