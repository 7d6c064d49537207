// The hot pack: what a start needs, in the order in which it needs it, as one object that is read in one go. Pages of the
// data blob, wherever they lie, packed together into frames of some hundred KiB: scattered pages of cold chunks cost what
// they are, not the chunks. It repeats content of the packs and may be replaced or deleted at any time.
import { createHash } from "node:crypto";
import { constants as zlib, zstdCompressSync } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import { BLOCK_BYTES } from "./chunker.ts";

export const HOT_PACK_VERSION = 1;
const MAGIC = Buffer.from("PLHOTPK\0", "latin1");
const HEADER_BYTES = 64;
const FRAME_BYTES = 64;
const RUN_BYTES = 16;
/** A frame is the unit of checksum, decompression and waiting. */
const FRAME_PAGES_MAX = 128;

export type HotRun = { page: number; pages: number };

type Frame = {
  sha256: Buffer;
  rawLength: number;
  wire: Buffer;
  compressed: boolean;
  firstRun: number;
  runs: number;
};

/**
 * Writes a hot pack. `imageId` ties it to the image; `read` gives the content of a run. Runs are cut to fit frames; the order
 * of frames is that of `runs`.
 */
export async function encodeHotPack(
  imageId: string,
  runs: readonly HotRun[],
  read: (run: HotRun) => Promise<Buffer>,
): Promise<Buffer> {
  const frames: Frame[] = [];
  const table: HotRun[] = [];
  for (const frame of cutIntoFrames(runs)) {
    const raw = Buffer.concat(await Promise.all(frame.map(read)));
    const packed = zstdCompressSync(raw, { params: { [zlib.ZSTD_c_compressionLevel]: 3 } });
    const compressed = packed.length < raw.length;
    const sha256 = createHash("sha256").update(raw).digest();
    frames.push({
      sha256,
      rawLength: raw.length,
      wire: compressed ? packed : raw,
      compressed,
      firstRun: table.length,
      runs: frame.length,
    });
    table.push(...frame);
  }
  const tables = Buffer.alloc(frames.length * FRAME_BYTES + table.length * RUN_BYTES);
  let offset = HEADER_BYTES + tables.length;
  frames.forEach((frame, i) => {
    const at = i * FRAME_BYTES;
    frame.sha256.copy(tables, at);
    tables.writeBigUInt64LE(BigInt(offset), at + 32);
    tables.writeUInt32LE(frame.rawLength, at + 40);
    tables.writeUInt32LE(frame.wire.length, at + 44);
    tables.writeUInt32LE(frame.firstRun, at + 48);
    tables.writeUInt32LE(frame.runs, at + 52);
    tables[at + 56] = frame.compressed ? 1 : 0;
    offset += frame.wire.length;
  });
  table.forEach(({ page, pages }, i) => {
    const at = frames.length * FRAME_BYTES + i * RUN_BYTES;
    tables.writeBigUInt64LE(BigInt(page), at);
    tables.writeUInt32LE(pages, at + 8);
  });
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(HOT_PACK_VERSION, 8);
  header.writeUInt32LE(frames.length, 12);
  header.writeUInt32LE(table.length, 16);
  // The first half of the image's identity is plenty to notice a stranger.
  Buffer.from(imageId, "hex").copy(header, 20, 0, 12);
  createHash("sha256").update(header.subarray(0, 32)).update(tables).digest().copy(header, 32);
  return Buffer.concat([header, tables, ...frames.map(({ wire }) => wire)]);
}

/** Frames of at most FRAME_PAGES_MAX pages; within a frame runs are sorted and joined, for they are written together. */
function* cutIntoFrames(runs: readonly HotRun[]): Generator<HotRun[]> {
  let frame: HotRun[] = [];
  let left = FRAME_PAGES_MAX;
  for (const run of runs) {
    let { page, pages } = run;
    while (pages > 0) {
      const taken = Math.min(pages, left);
      frame.push({ page, pages: taken });
      page += taken;
      pages -= taken;
      left -= taken;
      if (left > 0) continue;
      yield joined(frame);
      frame = [];
      left = FRAME_PAGES_MAX;
    }
  }
  if (frame.length > 0) yield joined(frame);
}

function joined(runs: HotRun[]): HotRun[] {
  const out: HotRun[] = [];
  for (const run of runs.toSorted((a, b) => a.page - b.page)) {
    const last = out.at(-1);
    if (last !== undefined && last.page + last.pages === run.page) last.pages += run.pages;
    else out.push({ ...run });
  }
  return out;
}

/** What a hot pack holds, by its first bytes: for inspection. Throws `corrupt` or `unsupported`. */
export function parseHotPackSummary(header: Buffer): { frames: number; runs: number; tableBytes: number } {
  if (header.length < HEADER_BYTES || !header.subarray(0, 8).equals(MAGIC))
    throw new PlatformError("corrupt", "not a hot pack");
  const version = header.readUInt32LE(8);
  if (version !== HOT_PACK_VERSION)
    throw new PlatformError(
      "unsupported",
      `a hot pack has version ${version}; this reader knows ${HOT_PACK_VERSION}`,
    );
  const frames = header.readUInt32LE(12);
  const runs = header.readUInt32LE(16);
  return { frames, runs, tableBytes: frames * FRAME_BYTES + runs * RUN_BYTES };
}

/** Bytes of a run. */
export const runBytes = (run: HotRun): number => run.pages * BLOCK_BYTES;
