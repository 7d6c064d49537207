// SHA-256 and zstd off the event loop: both run on libuv's thread pool, so that two cores compress while JavaScript parses.
import { webcrypto } from "node:crypto";
import { promisify } from "node:util";
import { constants as zlib, zstdCompress } from "node:zlib";

const compress = promisify(zstdCompress);

export async function sha256(bytes: Buffer): Promise<Buffer> {
  // A view of ordinary memory; the cast is about SharedArrayBuffer, which no buffer here is made of.
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", bytes as Buffer<ArrayBuffer>));
}

/** One zstd frame with its content size in the header and without a checksum: the index has a better one. */
export async function zstdFrame(bytes: Buffer, level: number): Promise<Buffer> {
  return compress(bytes, {
    params: {
      [zlib.ZSTD_c_compressionLevel]: level,
      [zlib.ZSTD_c_contentSizeFlag]: 1,
      [zlib.ZSTD_c_checksumFlag]: 0,
    },
    pledgedSrcSize: bytes.length,
    // One piece of output, not one each 16 KiB.
    chunkSize: bytes.length + 1024,
  });
}
