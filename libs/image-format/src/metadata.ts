// The EROFS metadata of an image object, put together from its chunks and verified.
import { createHash } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import type { ImageFile } from "./image-file.ts";
import { BLOB_KINDS, type IndexChunk } from "./image-index.ts";

/** The whole metadata image in memory. Throws `corrupt`. */
export function metadataImage(file: ImageFile): Buffer {
  const blob = file.index.blobs.find(({ kind }) => kind === BLOB_KINDS.erofsMetadata);
  if (blob === undefined) throw new PlatformError("corrupt", "the image has no EROFS metadata");
  return Buffer.concat(
    blob.chunks.map((chunk) =>
      decodeChunk(chunk, file.metadataPack.subarray(chunk.packOffset, chunk.packOffset + chunk.wireLength)),
    ),
  );
}

/** A chunk's bytes from its stored form, verified. Throws `corrupt`. */
export function decodeChunk(chunk: IndexChunk, wire: Buffer): Buffer {
  const raw = decompress(chunk, wire);
  if (raw.length !== chunk.rawLength || !createHash("sha256").update(raw).digest().equals(chunk.sha256)) {
    throw new PlatformError("corrupt", "a chunk's bytes have another checksum", {
      remedy: "The bucket returns wrong bytes; restore the object, or delete it and convert the image again.",
    });
  }
  return raw;
}

function decompress(chunk: IndexChunk, wire: Buffer): Buffer {
  switch (chunk.encoding) {
    case "zeros":
      return Buffer.alloc(chunk.rawLength);
    case "raw":
      return wire;
    case "zstd":
      try {
        return zstdDecompressSync(wire, { maxOutputLength: chunk.rawLength });
      } catch (cause) {
        throw new PlatformError("corrupt", "a chunk cannot be decompressed", { cause });
      }
    default:
      return chunk.encoding satisfies never;
  }
}
