// The record of a converted layer: its entries and its chunks with their places in packs. It stands in the bucket beside
// the packs, so that a layer is converted once for all images that hold it, and a conversion that was cut off goes on
// after the last finished layer. It is written by converters for converters; readers of images never need it.
import { constants as zlib, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import { ByteReader, ByteWriter } from "./byte-coder.ts";
import type { ChunkEncoding, ChunkIdentity } from "./image-index.ts";
import type { LayerEntry } from "./layer-scan.ts";
import type { TarEntryKind } from "./tar/reader.ts";

export type LayerPack = { sha256: Buffer; size: number };

/** A chunk of a layer; `pack` is a position in the record's own pack list. */
export type LayerChunk = ChunkIdentity & {
  pack: number;
  packOffset: number;
  wireLength: number;
  encoding: ChunkEncoding;
};

export type LayerChunks = {
  chunks: LayerChunk[];
  packs: LayerPack[];
  contentBytes: number;
};

export type LayerRecord = LayerChunks & { entries: LayerEntry[] };

const MAGIC = Buffer.from("PLLAYER\0", "latin1");
const VERSION = 1;
/** magic, version, lengths of the two compressed sections. */
const HEADER_BYTES = 20;
/** A record of two million entries with long names stays below this. */
const RAW_BYTES_MAX = 1 << 30;
/** How much of a record's object to read for `decodeLayerChunks` at first. */
export const LAYER_RECORD_HEAD_BYTES = HEADER_BYTES;

const KINDS: readonly TarEntryKind[] = [
  "file",
  "directory",
  "symlink",
  "hardlink",
  "charDevice",
  "blockDevice",
  "fifo",
];
const ENCODINGS: readonly ChunkEncoding[] = ["raw", "zstd", "zeros"];
const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map();

/** Chunks and entries are sections of their own, so that who looks for known chunks reads only those. */
export function encodeLayerRecord(record: LayerRecord): Buffer {
  const chunks = compress(encodeChunks(record));
  const entries = compress(encodeEntries(record.entries));
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(chunks.length, 12);
  header.writeUInt32LE(entries.length, 16);
  return Buffer.concat([header, chunks, entries]);
}

function encodeChunks(record: LayerChunks): Buffer {
  const out = new ByteWriter();
  out.uint(record.contentBytes);
  out.uint(record.packs.length);
  for (const pack of record.packs) {
    out.raw(pack.sha256);
    out.uint(pack.size);
  }
  out.uint(record.chunks.length);
  for (const chunk of record.chunks) {
    out.raw(chunk.sha256);
    out.uint(chunk.rawLength);
    out.uint(ENCODINGS.indexOf(chunk.encoding));
    out.uint(chunk.pack);
    out.uint(chunk.packOffset);
    out.uint(chunk.wireLength);
  }
  return out.finish();
}

function encodeEntries(entries: readonly LayerEntry[]): Buffer {
  const out = new ByteWriter();
  out.uint(entries.length);
  let previous = "";
  for (const entry of entries) {
    writeEntry(out, entry, previous);
    previous = entry.path;
  }
  return out.finish();
}

function writeEntry(out: ByteWriter, entry: LayerEntry, previous: string): void {
  const shared = sharedPrefix(previous, entry.path);
  out.uint(KINDS.indexOf(entry.kind));
  out.uint(shared);
  out.string(entry.path.slice(shared));
  out.uint(entry.mode);
  out.uint(entry.uid);
  out.uint(entry.gid);
  out.int(entry.mtimeSeconds);
  out.uint(entry.mtimeNanoseconds);
  out.string(entry.linkTarget);
  out.uint(entry.size);
  out.uint(entry.devMajor);
  out.uint(entry.devMinor);
  out.uint(entry.place === undefined ? 0 : entry.place.chunk + 1);
  out.uint(entry.place?.offset ?? 0);
  out.uint(entry.xattrs.size);
  for (const [name, value] of entry.xattrs) {
    out.string(name);
    out.bytes(value);
  }
}

/** Throws `corrupt`, or `unsupported` for another version. */
export function decodeLayerRecord(bytes: Buffer): LayerRecord {
  const { chunksEnd, entriesEnd } = sections(bytes);
  if (entriesEnd !== bytes.length)
    throw new PlatformError("corrupt", "a layer record has another length than it says");
  const reader = new ByteReader(decompress(bytes.subarray(chunksEnd, entriesEnd)));
  const entries: LayerEntry[] = [];
  let previous = "";
  for (let left = reader.count(15); left > 0; left--) {
    const entry = readEntry(reader, previous);
    entries.push(entry);
    previous = entry.path;
  }
  reader.end();
  return { ...decodeLayerChunks(bytes), entries };
}

/** Where the chunk section ends, told by the record's first LAYER_RECORD_HEAD_BYTES. */
export function layerChunksEnd(head: Buffer): number {
  return sections(head).chunksEnd;
}

/** Reads only the chunks; `bytes` may end after them. */
export function decodeLayerChunks(bytes: Buffer): LayerChunks {
  const reader = new ByteReader(decompress(bytes.subarray(HEADER_BYTES, sections(bytes).chunksEnd)));
  const contentBytes = reader.uint();
  const packs = Array.from({ length: reader.count(33) }, () => ({
    sha256: Buffer.from(reader.raw(32)),
    size: reader.uint(),
  }));
  const chunks = Array.from({ length: reader.count(37) }, () => readChunk(reader));
  reader.end();
  return { chunks, packs, contentBytes };
}

function sections(bytes: Buffer): { chunksEnd: number; entriesEnd: number } {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, 8).equals(MAGIC))
    throw new PlatformError("corrupt", "not a layer record");
  const version = bytes.readUInt32LE(8);
  if (version !== VERSION)
    throw new PlatformError(
      "unsupported",
      `a layer record has version ${version}; this converter knows ${VERSION}`,
    );
  const chunksEnd = HEADER_BYTES + bytes.readUInt32LE(12);
  return { chunksEnd, entriesEnd: chunksEnd + bytes.readUInt32LE(16) };
}

function readChunk(reader: ByteReader): LayerChunk {
  return {
    sha256: Buffer.from(reader.raw(32)),
    rawLength: reader.uint(),
    encoding: pick(ENCODINGS, reader.uint()),
    pack: reader.uint(),
    packOffset: reader.uint(),
    wireLength: reader.uint(),
  };
}

function readEntry(reader: ByteReader, previous: string): LayerEntry {
  const kind = pick(KINDS, reader.uint());
  const path = previous.slice(0, reader.uint()) + reader.string();
  const entry = {
    path,
    kind,
    mode: reader.uint(),
    uid: reader.uint(),
    gid: reader.uint(),
    mtimeSeconds: reader.int(),
    mtimeNanoseconds: reader.uint(),
    linkTarget: reader.string(),
    size: reader.uint(),
    devMajor: reader.uint(),
    devMinor: reader.uint(),
  };
  const chunk = reader.uint();
  const offset = reader.uint();
  const place = chunk === 0 ? undefined : { chunk: chunk - 1, offset };
  const xattrCount = reader.count(2);
  if (xattrCount === 0) return { ...entry, place, xattrs: NO_XATTRS };
  const xattrs = new Map<string, Buffer>();
  for (let i = 0; i < xattrCount; i++) xattrs.set(reader.string(), Buffer.from(reader.bytes()));
  return { ...entry, place, xattrs };
}

function compress(bytes: Buffer): Buffer {
  return zstdCompressSync(bytes, { params: { [zlib.ZSTD_c_compressionLevel]: 3 } });
}

function decompress(bytes: Buffer): Buffer {
  try {
    return zstdDecompressSync(bytes, { maxOutputLength: RAW_BYTES_MAX });
  } catch (cause) {
    throw new PlatformError("corrupt", "a layer record cannot be decompressed", { cause });
  }
}

function pick<T>(values: readonly T[], position: number): T {
  const value = values[position];
  if (value === undefined) throw new PlatformError("corrupt", "a layer record holds an unknown code");
  return value;
}

function sharedPrefix(a: string, b: string): number {
  const max = Math.min(a.length, b.length);
  let i = 0;
  while (i < max && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  return i;
}
