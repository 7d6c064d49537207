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

export type LayerRecord = {
  entries: LayerEntry[];
  chunks: LayerChunk[];
  packs: LayerPack[];
  contentBytes: number;
};

const MAGIC = Buffer.from("PLLAYER\0", "latin1");
const VERSION = 1;
/** A record of two million entries with long names stays below this. */
const RAW_BYTES_MAX = 1 << 30;

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

export function encodeLayerRecord(record: LayerRecord): Buffer {
  const out = new ByteWriter();
  out.raw(MAGIC);
  out.uint(VERSION);
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
  out.uint(record.entries.length);
  let previous = "";
  for (const entry of record.entries) {
    writeEntry(out, entry, previous);
    previous = entry.path;
  }
  return zstdCompressSync(out.finish(), { params: { [zlib.ZSTD_c_compressionLevel]: 3 } });
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
  const reader = new ByteReader(decompress(bytes));
  if (!reader.raw(8).equals(MAGIC)) throw new PlatformError("corrupt", "not a layer record");
  const version = reader.uint();
  if (version !== VERSION)
    throw new PlatformError(
      "unsupported",
      `a layer record has version ${version}; this converter knows ${VERSION}`,
    );
  const contentBytes = reader.uint();
  const packs = Array.from({ length: reader.count(33) }, () => ({
    sha256: Buffer.from(reader.raw(32)),
    size: reader.uint(),
  }));
  const chunks = Array.from({ length: reader.count(37) }, () => readChunk(reader));
  const entries: LayerEntry[] = [];
  let previous = "";
  for (let left = reader.count(15); left > 0; left--) {
    const entry = readEntry(reader, previous);
    entries.push(entry);
    previous = entry.path;
  }
  reader.end();
  return { entries, chunks, packs, contentBytes };
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
