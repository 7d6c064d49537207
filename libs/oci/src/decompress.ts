// A layer's bytes, uncompressed. What the compression is, is told by the first bytes: media types are known to lie.
//   D1. A piece is the caller's until the next one is asked for. The same holds for the source's pieces.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { openCodec } from "@pilotlight/codec";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { gunzipped } from "./gunzipped.ts";
import { ownPieces, PIECE_BYTES } from "./pieces.ts";
import { zstdFrames } from "./zstd-frames.ts";

export type DecompressOptions = {
  /** Told at the end: the SHA-256 of all that came, `sha256:…`. */
  onDigest?: (digest: string) => void;
  /** False: by Node's own means, with a new buffer for every piece, so that the caller may keep them. */
  native?: boolean;
};

/** Uncompresses gzip, zstd or nothing (D1). Throws `corrupt` for damaged or truncated input; stops `source` when left early. */
export async function* decompressed(
  source: AsyncIterable<Buffer>,
  { onDigest, native = true }: DecompressOptions = {},
): AsyncGenerator<Buffer> {
  const { first, all } = await peek(source, 4);
  if (first.length >= 2 && first[0] === 0x1f && first[1] === 0x8b) {
    const codec = native ? openCodec() : undefined;
    if (codec === undefined)
      yield* hashed(
        through(all, () => createGunzip({ chunkSize: PIECE_BYTES })),
        onDigest,
      );
    else yield* orCorrupt(gunzipped(new codec.Gunzip(), all, PIECE_BYTES, onDigest));
  } else if (first.length >= 4 && isZstd(first.readUInt32LE(0))) {
    yield* hashed(unframed(all), onDigest);
  } else {
    yield* hashed(native ? all : ownPieces(all), onDigest);
  }
}

function isZstd(magic: number): boolean {
  return magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
}

async function* unframed(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const frame of zstdFrames(source))
    yield* through(frame, () => createZstdDecompress({ chunkSize: PIECE_BYTES }));
}

async function* hashed(
  source: AsyncIterable<Buffer>,
  onDigest: DecompressOptions["onDigest"],
): AsyncGenerator<Buffer> {
  if (onDigest === undefined) return yield* source;
  const hash = createHash("sha256");
  for await (const piece of source) {
    hash.update(piece);
    yield piece;
  }
  onDigest(`sha256:${hash.digest("hex")}`);
}

async function* through(
  source: AsyncIterable<Buffer>,
  decoder: () => NodeJS.ReadWriteStream,
): AsyncGenerator<Buffer> {
  const input = Readable.from(ownPieces(source), { objectMode: false, highWaterMark: PIECE_BYTES });
  const output = decoder() as Readable & NodeJS.WritableStream;
  input.on("error", (error) => output.destroy(error));
  input.pipe(output);
  try {
    yield* orCorrupt(output as AsyncIterable<Buffer>);
  } finally {
    input.destroy();
  }
}

/** What a decoder says is about the layer; what the source says stays. */
async function* orCorrupt(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  try {
    yield* pieces;
  } catch (error) {
    const known = toPlatformError(error);
    if (known.code !== "internal") throw known;
    throw new PlatformError("corrupt", `the layer cannot be decompressed: ${known.message}`, {
      cause: error,
      remedy: "The layer is damaged or truncated; push the image again.",
    });
  }
}

async function peek(
  source: AsyncIterable<Buffer>,
  bytes: number,
): Promise<{ first: Buffer; all: AsyncGenerator<Buffer> }> {
  const iterator = source[Symbol.asyncIterator]();
  const held: Buffer[] = [];
  let length = 0;
  while (length < bytes) {
    const next = await iterator.next();
    if (next.done === true) break;
    held.push(Buffer.from(next.value));
    length += next.value.length;
  }
  async function* all(): AsyncGenerator<Buffer> {
    try {
      yield* held;
      while (true) {
        const next = await iterator.next();
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      await iterator.return?.();
    }
  }
  return { first: Buffer.concat(held).subarray(0, bytes), all: all() };
}
