// The index: which chunks make up an image's blobs, and where each chunk lies. Fixed-size records, little endian, so that
// a reader maps the file and searches it in place. docs/image-format.md holds the same layout in words.
//   X1. A blob is the concatenation of its chunks, in the order of the table, without gaps.
//   X2. What a chunk is (its SHA-256 and length) is part of the image's identity; where it lies is not.
import { createHash } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import { BLOCK_BYTES } from "./chunker.ts";

export const INDEX_VERSION = 1;
const MAGIC = Buffer.from("PLINDEX\0", "latin1");
const HEADER_BYTES = 64;
const BLOB_BYTES = 32;
const PACK_BYTES = 48;
const CHUNK_BYTES = 64;
/** No chunk is larger, whatever the converter was told. */
export const CHUNK_BYTES_MAX = 4 << 20;

/** What a blob is for. Readers carry blobs of kinds they do not know, and mount only those they do. */
export const BLOB_KINDS = { erofsMetadata: 1, erofsData: 2 } as const;

/** How a chunk stands in its pack. All-zero chunks stand nowhere. */
export type ChunkEncoding = "raw" | "zstd" | "zeros";
const ENCODINGS: readonly ChunkEncoding[] = ["raw", "zstd", "zeros"];

export type ChunkIdentity = {
  /** SHA-256 of the uncompressed bytes. */
  sha256: Buffer;
  /** Uncompressed, a multiple of 4 KiB. */
  rawLength: number;
};

export type ChunkLocation = {
  /** Position in the pack table. */
  pack: number;
  packOffset: number;
  wireLength: number;
  encoding: ChunkEncoding;
};

export type IndexChunk = ChunkIdentity & ChunkLocation;

export type IndexBlob = { kind: number; chunks: IndexChunk[] };

/** Pack 0 is the image's own object (its metadata section); the others are objects named by their SHA-256. */
export type IndexPack = { sha256: Buffer; size: number };

export type ImageIndex = { blobs: IndexBlob[]; packs: IndexPack[] };

/** Size of a blob in bytes. */
export function blobSize(blob: IndexBlob): number {
  return blob.chunks.reduce((sum, chunk) => sum + chunk.rawLength, 0);
}

export function encodeIndex(index: ImageIndex): Buffer {
  const chunkCount = index.blobs.reduce((sum, blob) => sum + blob.chunks.length, 0);
  const blobsAt = HEADER_BYTES;
  const packsAt = blobsAt + index.blobs.length * BLOB_BYTES;
  const chunksAt = roundUp(packsAt + index.packs.length * PACK_BYTES, CHUNK_BYTES);
  const out = Buffer.alloc(chunksAt + chunkCount * CHUNK_BYTES);
  MAGIC.copy(out, 0);
  out.writeUInt32LE(INDEX_VERSION, 8);
  out.writeUInt32LE(index.blobs.length, 12);
  out.writeUInt32LE(index.packs.length, 16);
  out.writeUInt32LE(chunkCount, 20);
  let number = 0;
  index.blobs.forEach((blob, b) => {
    const at = blobsAt + b * BLOB_BYTES;
    out.writeUInt32LE(blob.kind, at);
    out.writeUInt32LE(number, at + 4);
    out.writeUInt32LE(blob.chunks.length, at + 8);
    out.writeBigUInt64LE(BigInt(blobSize(blob)), at + 16);
    let blobOffset = 0;
    for (const chunk of blob.chunks) {
      writeChunk(out, chunksAt + number * CHUNK_BYTES, chunk, blobOffset);
      blobOffset += chunk.rawLength;
      number++;
    }
  });
  index.packs.forEach((pack, p) => {
    const at = packsAt + p * PACK_BYTES;
    pack.sha256.copy(out, at);
    out.writeBigUInt64LE(BigInt(pack.size), at + 32);
  });
  return out;
}

function writeChunk(out: Buffer, at: number, chunk: IndexChunk, blobOffset: number): void {
  chunk.sha256.copy(out, at);
  out.writeBigUInt64LE(BigInt(blobOffset), at + 32);
  out.writeBigUInt64LE(BigInt(chunk.packOffset), at + 40);
  out.writeUInt32LE(chunk.pack, at + 48);
  out.writeUInt32LE(chunk.rawLength, at + 52);
  out.writeUInt32LE(chunk.wireLength, at + 56);
  out[at + 60] = ENCODINGS.indexOf(chunk.encoding);
}

/** Reads an index to the letter. Throws `corrupt`, or `unsupported` for a version that this reader does not know. */
export function parseIndex(bytes: Buffer): ImageIndex {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, 8).equals(MAGIC))
    throw corrupt("it does not begin as one");
  const version = bytes.readUInt32LE(8);
  if (version !== INDEX_VERSION) {
    throw new PlatformError(
      "unsupported",
      `the image index has version ${version}; this reader knows ${INDEX_VERSION}`,
      {
        remedy: "Update this node, or convert the image again with the converter of this release.",
      },
    );
  }
  const [blobCount, packCount, chunkCount] = [12, 16, 20].map((at) => bytes.readUInt32LE(at)) as [
    number,
    number,
    number,
  ];
  const packsAt = HEADER_BYTES + blobCount * BLOB_BYTES;
  const chunksAt = roundUp(packsAt + packCount * PACK_BYTES, CHUNK_BYTES);
  if (bytes.length !== chunksAt + chunkCount * CHUNK_BYTES)
    throw corrupt("its length does not fit its tables");
  const packs = Array.from({ length: packCount }, (_, p) => {
    const at = packsAt + p * PACK_BYTES;
    return { sha256: Buffer.from(bytes.subarray(at, at + 32)), size: size64(bytes, at + 32) };
  });
  let next = 0;
  const blobs = Array.from({ length: blobCount }, (_, b) => {
    const at = HEADER_BYTES + b * BLOB_BYTES;
    const count = bytes.readUInt32LE(at + 8);
    if (bytes.readUInt32LE(at + 4) !== next || next + count > chunkCount)
      throw corrupt("blobs do not partition the chunks");
    const blob = { kind: bytes.readUInt32LE(at), chunks: [] as IndexChunk[] };
    let blobOffset = 0;
    for (let i = 0; i < count; i++, next++) {
      const chunk = parseChunk(bytes, chunksAt + next * CHUNK_BYTES, packs, blobOffset);
      blob.chunks.push(chunk);
      blobOffset += chunk.rawLength;
    }
    if (size64(bytes, at + 16) !== blobOffset) throw corrupt("a blob's size is not that of its chunks");
    return blob;
  });
  if (next !== chunkCount) throw corrupt("some chunks belong to no blob");
  return { blobs, packs };
}

function parseChunk(bytes: Buffer, at: number, packs: IndexPack[], blobOffset: number): IndexChunk {
  const encoding = ENCODINGS[bytes[at + 60] ?? 255];
  const chunk = {
    sha256: Buffer.from(bytes.subarray(at, at + 32)),
    packOffset: size64(bytes, at + 40),
    pack: bytes.readUInt32LE(at + 48),
    rawLength: bytes.readUInt32LE(at + 52),
    wireLength: bytes.readUInt32LE(at + 56),
  };
  if (encoding === undefined) throw corrupt("a chunk has an unknown encoding");
  if (size64(bytes, at + 32) !== blobOffset) throw corrupt("chunks overlap or leave a gap");
  if (chunk.rawLength === 0 || chunk.rawLength > CHUNK_BYTES_MAX || chunk.rawLength % BLOCK_BYTES !== 0) {
    throw corrupt(`a chunk has ${chunk.rawLength} bytes`);
  }
  const wireMax = { raw: chunk.rawLength, zstd: chunk.rawLength - 1, zeros: 0 }[encoding];
  const wireMin = { raw: chunk.rawLength, zstd: 1, zeros: 0 }[encoding];
  if (chunk.wireLength < wireMin || chunk.wireLength > wireMax)
    throw corrupt("a chunk's stored length is impossible");
  const pack = packs[chunk.pack];
  if (encoding !== "zeros" && (pack === undefined || chunk.packOffset + chunk.wireLength > pack.size)) {
    throw corrupt("a chunk lies outside its pack");
  }
  return { ...chunk, encoding };
}

/**
 * The image's identity: SHA-256, in hex, over the OCI manifest's digest and the blobs with their chunks (X2). Equal
 * inputs give equal identities whatever the bucket held before.
 */
export function imageIdentity(manifestDigest: string, index: ImageIndex): string {
  const hash = createHash("sha256");
  hash.update(`pilotlight image 1\n${manifestDigest}\n`);
  const lengths = Buffer.alloc(4);
  for (const blob of index.blobs) {
    hash.update(`blob ${blob.kind} ${blobSize(blob)} ${blob.chunks.length}\n`);
    for (const chunk of blob.chunks) {
      lengths.writeUInt32LE(chunk.rawLength);
      hash.update(chunk.sha256).update(lengths);
    }
  }
  return hash.digest("hex");
}

function size64(bytes: Buffer, at: number): number {
  const value = Number(bytes.readBigUInt64LE(at));
  if (!Number.isSafeInteger(value)) throw corrupt("a size is beyond 2^53");
  return value;
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function corrupt(why: string): PlatformError {
  return new PlatformError("corrupt", `not a valid image index: ${why}`, {
    remedy: "Convert the image again; if it happens again, the bucket returns wrong bytes.",
  });
}
