// A layer's bytes, uncompressed. What the compression is, is told by the first bytes: media types are known to lie.
import { Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { zstdFrames } from "./zstd-frames.ts";

/** Decoders work outside the event loop, piece by piece: larger pieces mean fewer hops. */
const PIECE_BYTES = 512 << 10;

/** Uncompresses gzip, zstd or nothing. Throws `corrupt` for damaged or truncated input; stops `source` when left early. */
export async function* decompressed(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const { first, all } = await peek(source, 4);
  if (first.length >= 2 && first[0] === 0x1f && first[1] === 0x8b) {
    yield* through(all, () => createGunzip({ chunkSize: PIECE_BYTES }));
  } else if (first.length >= 4 && isZstd(first.readUInt32LE(0))) {
    for await (const frame of zstdFrames(all))
      yield* through(frame, () => createZstdDecompress({ chunkSize: PIECE_BYTES }));
  } else {
    yield* all;
  }
}

function isZstd(magic: number): boolean {
  return magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
}

async function* through(
  source: AsyncIterable<Buffer>,
  decoder: () => NodeJS.ReadWriteStream,
): AsyncGenerator<Buffer> {
  const input = Readable.from(source, { objectMode: false, highWaterMark: PIECE_BYTES });
  const output = decoder() as Readable & NodeJS.WritableStream;
  input.on("error", (error) => output.destroy(error));
  input.pipe(output);
  try {
    yield* output as AsyncIterable<Buffer>;
  } catch (error) {
    const known = toPlatformError(error);
    if (known.code !== "internal") throw known;
    throw new PlatformError("corrupt", `the layer cannot be decompressed: ${known.message}`, {
      cause: error,
      remedy: "The layer is damaged or truncated; push the image again.",
    });
  } finally {
    input.destroy();
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
    held.push(next.value);
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
