// Writes the EROFS metadata image of a merged tree: everything but file content, which lies in a second device. What
// `mkfs.erofs --tar=f --blobdev=… ` does, as a pure function: the same tree gives the same bytes.
//   W1. Two passes: the first gives every inode its place, the second writes in order of places, so that memory holds
//       the tree and one piece, never the image.
//   W2. No inode, and no inline tail, crosses a block: kernels before 6.1 did not take either in every case.
//   W3. A file's content is one run in the data device, so one chunk index per file is enough, whatever its size.
import { PlatformError } from "@pilotlight/errors";
import { BLOCK_BYTES } from "../chunker.ts";
import { crc32c } from "../crc32c.ts";
import { type Inode, walk } from "../merge.ts";
import * as k from "./constants.ts";
import { type DirectoryLayout, layOutDirectory, writeDirectoryBlock } from "./directory.ts";
import { encodeXattrs } from "./xattr.ts";

export type ErofsOptions = {
  /** Where a file's content begins in the data device: bytes, a multiple of 4 KiB. */
  contentOffset(inode: Inode): number;
  /** Size of the data device in bytes, a multiple of 4 KiB. */
  dataBytes: number;
  /** 16 bytes. */
  uuid: Buffer;
  /** The image is handed out in pieces of this size, a multiple of 4 KiB; the last may be shorter. */
  pieceBytes: number;
};

export type ErofsImage = {
  /** Bytes in all, a multiple of 4 KiB. */
  size: number;
  inodeCount: number;
  /** Ends after `size` bytes. Each piece is a buffer of its own. */
  pieces(): Generator<Buffer>;
};

type Plan = {
  inode: Inode;
  position: number;
  links: number;
  number: number;
  xattrs: Buffer | undefined;
  directory: DirectoryLayout | undefined;
  /** Bytes of content that stand behind the inode. */
  tail: number;
  /** First block of content outside the inode, or 0. */
  block: number;
};

/** Lays the tree out. Throws `unsupported` when it does not fit the format's 32-bit block numbers (16 TiB). */
export function erofsImage(root: Inode, options: ErofsOptions): ErofsImage {
  const { order, plans } = collect(root);
  const inodesEnd = placeInodes(order);
  const size = placeBlocks(order, inodesEnd);
  if (options.dataBytes / BLOCK_BYTES > 0xffff_ffff || size / BLOCK_BYTES > 0xffff_ffff) {
    throw new PlatformError("unsupported", `an image of ${options.dataBytes + size} bytes is above 16 TiB`);
  }
  return {
    size,
    inodeCount: order.length,
    pieces: () => writePieces(order, plans, size, options),
  };
}

function collect(root: Inode): { order: Plan[]; plans: Map<Inode, Plan> } {
  const order: Plan[] = [];
  const plans = new Map<Inode, Plan>();
  const parents = new Map<Inode, Inode>([[root, root]]);
  for (const { inode, first } of walk(root)) {
    if (!first) {
      (plans.get(inode) as Plan).links++;
      continue;
    }
    const isDirectory = inode.kind === "directory";
    const plan: Plan = {
      inode,
      position: 0,
      links: isDirectory ? 2 : 1,
      number: order.length + 1,
      xattrs: inode.xattrs.size === 0 ? undefined : encodeXattrs(inode.xattrs),
      directory: isDirectory ? layOutDirectory(inode, parents.get(inode) as Inode) : undefined,
      tail: 0,
      block: 0,
    };
    for (const child of inode.children?.values() ?? []) {
      if (child.kind !== "directory") continue;
      plan.links++;
      parents.set(child, inode);
    }
    order.push(plan);
    plans.set(inode, plan);
  }
  return { order, plans };
}

/** Gives inodes their places from block 1 on; returns where they end. */
function placeInodes(order: Plan[]): number {
  let position = BLOCK_BYTES;
  for (const plan of order) {
    const head = headBytes(plan);
    plan.tail = inlineTail(plan, head);
    // W2: what must stay within one block starts in the next one if it does not fit here.
    const unbroken = plan.tail > 0 ? head + plan.tail : k.INODE_BYTES;
    if ((position % BLOCK_BYTES) + unbroken > BLOCK_BYTES) position = roundUp(position, BLOCK_BYTES);
    plan.position = position;
    position = roundUp(position + head + plan.tail, k.INODE_SLOT_BYTES);
  }
  return position;
}

/** Inode, attributes and chunk index. */
function headBytes(plan: Plan): number {
  const fixed = k.INODE_BYTES + (plan.xattrs?.length ?? 0);
  return hasContent(plan.inode) ? roundUp(fixed, k.CHUNK_INDEX_BYTES) + k.CHUNK_INDEX_BYTES : fixed;
}

function inlineTail(plan: Plan, head: number): number {
  const size = contentBytes(plan);
  const tail = size % BLOCK_BYTES;
  return head + tail <= BLOCK_BYTES ? tail : 0;
}

/** Bytes of content that live in the metadata: directories and link targets. */
function contentBytes(plan: Plan): number {
  return plan.directory?.size ?? (plan.inode.kind === "symlink" ? plan.inode.linkTarget.length : 0);
}

function hasContent(inode: Inode): boolean {
  return inode.kind === "file" && inode.size > 0;
}

/** Whole blocks of directories and long link targets follow the inodes; returns the image's size. */
function placeBlocks(order: Plan[], inodesEnd: number): number {
  let position = roundUp(inodesEnd, BLOCK_BYTES);
  for (const plan of order) {
    const bytes = contentBytes(plan) - plan.tail;
    if (bytes <= 0) continue;
    plan.block = position / BLOCK_BYTES;
    position += roundUp(bytes, BLOCK_BYTES);
  }
  return position;
}

function* writePieces(
  order: Plan[],
  plans: Map<Inode, Plan>,
  size: number,
  options: ErofsOptions,
): Generator<Buffer> {
  const nidOf = (inode: Inode) => (plans.get(inode) as Plan).position / k.INODE_SLOT_BYTES;
  const typeOf = (inode: Inode) => k.KIND_CODES[inode.kind].dirent;
  const root = order[0] as Plan;
  const out = new PieceWriter(size, options.pieceBytes);
  yield* out.write(0, superblock(nidOf(root.inode), order.length, size, options));
  for (const plan of order) yield* out.write(plan.position, encodeInode(plan, options, nidOf, typeOf));
  for (const plan of order) {
    if (plan.block === 0) continue;
    const position = plan.block * BLOCK_BYTES;
    if (plan.directory === undefined) {
      yield* out.write(position, Buffer.from(plan.inode.linkTarget, "latin1"));
      continue;
    }
    const whole = plan.tail > 0 ? plan.directory.blocks.slice(0, -1) : plan.directory.blocks;
    for (const [i, entries] of whole.entries()) {
      const block = Buffer.alloc(BLOCK_BYTES);
      writeDirectoryBlock(block, 0, entries, nidOf, typeOf);
      yield* out.write(position + i * BLOCK_BYTES, block);
    }
  }
  yield* out.finish();
}

function encodeInode(
  plan: Plan,
  options: ErofsOptions,
  nidOf: (inode: Inode) => number,
  typeOf: (inode: Inode) => number,
): Buffer {
  const { inode } = plan;
  const head = headBytes(plan);
  const out = Buffer.alloc(head + plan.tail);
  const chunked = hasContent(inode);
  const layout = chunked ? k.LAYOUT_CHUNK_BASED : plan.tail > 0 ? k.LAYOUT_FLAT_INLINE : k.LAYOUT_FLAT_PLAIN;
  out.writeUInt16LE(1 | (layout << 1), 0);
  out.writeUInt16LE(plan.xattrs === undefined ? 0 : (plan.xattrs.length - k.XATTR_HEADER_BYTES) / 4 + 1, 2);
  out.writeUInt16LE(k.KIND_CODES[inode.kind].format | inode.mode, 4);
  out.writeBigUInt64LE(BigInt(chunked ? inode.size : contentBytes(plan)), 8);
  out.writeUInt32LE(inodeUnion(plan, chunked), 16);
  out.writeUInt32LE(plan.number, 20);
  out.writeUInt32LE(inode.uid, 24);
  out.writeUInt32LE(inode.gid, 28);
  out.writeBigInt64LE(BigInt(inode.mtimeSeconds), 32);
  out.writeUInt32LE(inode.mtimeNanoseconds, 40);
  out.writeUInt32LE(plan.links, 44);
  plan.xattrs?.copy(out, k.INODE_BYTES);
  if (chunked) {
    const at = head - k.CHUNK_INDEX_BYTES;
    out.writeUInt16LE(k.DATA_DEVICE, at + 2);
    out.writeUInt32LE(options.contentOffset(inode) / BLOCK_BYTES, at + 4);
  } else if (plan.tail > 0 && plan.directory !== undefined) {
    writeDirectoryBlock(out, head, plan.directory.blocks.at(-1) ?? [], nidOf, typeOf);
  } else if (plan.tail > 0) {
    out.write(inode.linkTarget, head, "latin1");
  }
  return out;
}

function inodeUnion(plan: Plan, chunked: boolean): number {
  const { inode } = plan;
  if (chunked) return k.CHUNK_FORMAT_INDEXES | chunkBits(inode.size);
  // The kernel's new_encode_dev().
  if (inode.kind === "charDevice" || inode.kind === "blockDevice") {
    return (
      ((inode.devMinor & 0xff) | ((inode.devMajor & 0xfff) << 8) | ((inode.devMinor & 0xfff00) << 12)) >>> 0
    );
  }
  return plan.block;
}

/** The smallest power of two of blocks that covers the file: W3. */
function chunkBits(size: number): number {
  let bits = 0;
  while (BLOCK_BYTES * 2 ** bits < size) bits++;
  if (bits > 31) throw new PlatformError("unsupported", `a file of ${size} bytes is above 8 TiB`);
  return bits;
}

function superblock(rootNid: number, inodeCount: number, size: number, options: ErofsOptions): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const sb = block.subarray(k.SUPERBLOCK_OFFSET);
  sb.writeUInt32LE(k.EROFS_MAGIC, 0);
  sb.writeUInt32LE(k.COMPAT_CHECKSUM | k.COMPAT_MTIME, 8);
  sb[12] = Math.log2(BLOCK_BYTES);
  sb.writeUInt16LE(rootNid, 14);
  sb.writeBigUInt64LE(BigInt(inodeCount), 16);
  sb.writeUInt32LE(size / BLOCK_BYTES, 36);
  options.uuid.copy(sb, 48, 0, 16);
  sb.writeUInt32LE(k.INCOMPAT_CHUNKED_FILE | k.INCOMPAT_DEVICE_TABLE, 80);
  sb.writeUInt16LE(1, 86); // one extra device
  sb.writeUInt16LE(k.DEVICE_SLOT_INDEX, 88);
  block.writeUInt32LE(options.dataBytes / BLOCK_BYTES, k.DEVICE_SLOT_INDEX * k.DEVICE_SLOT_BYTES + 64);
  sb.writeUInt32LE(crc32c(0xffff_ffff, sb), 4);
  return block;
}

/** Takes parts in rising order of position and gives the image out in pieces, gaps as zeros. */
class PieceWriter {
  readonly #size: number;
  readonly #pieceBytes: number;
  #start = 0;
  #piece: Buffer;

  constructor(size: number, pieceBytes: number) {
    this.#size = size;
    this.#pieceBytes = pieceBytes;
    this.#piece = Buffer.alloc(Math.min(pieceBytes, size));
  }

  *write(position: number, part: Buffer): Generator<Buffer> {
    let done = 0;
    while (done < part.length) {
      const at = position + done;
      while (at >= this.#start + this.#piece.length) yield this.#next();
      done += part.copy(this.#piece, at - this.#start, done);
    }
  }

  *finish(): Generator<Buffer> {
    while (this.#start < this.#size) yield this.#next();
  }

  #next(): Buffer {
    const full = this.#piece;
    this.#start += full.length;
    this.#piece = Buffer.alloc(Math.max(0, Math.min(this.#pieceBytes, this.#size - this.#start)));
    return full;
  }
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
