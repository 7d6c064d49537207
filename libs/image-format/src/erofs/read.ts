// Reads EROFS metadata as this package writes them (write.ts): for extraction without a kernel, inspection and comparison.
// Not a reader of EROFS at large: what the writer never writes is refused.
import { PlatformError } from "@pilotlight/errors";
import { BLOCK_BYTES } from "../chunker.ts";
import { crc32c } from "../crc32c.ts";
import type { InodeKind } from "../merge.ts";
import * as k from "./constants.ts";

export type ErofsEntry = {
  /** Byte string, relative to the root, "" for the root itself. */
  path: string;
  kind: InodeKind;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSeconds: number;
  mtimeNanoseconds: number;
  links: number;
  linkTarget: string;
  devMajor: number;
  devMinor: number;
  xattrs: Map<string, Buffer>;
  /** Equal for the names of one inode. */
  inode: number;
  /** Files with content: where it begins in the data blob. */
  contentOffset: number | undefined;
};

const KIND_BY_FORMAT = new Map(
  Object.entries(k.KIND_CODES).map(([kind, { format }]) => [format, kind as InodeKind]),
);
const DEPTH_MAX = 4096;

/** All entries, a directory before its content, by name. Throws `corrupt` or `unsupported`. */
export function* readErofs(image: Buffer): Generator<ErofsEntry> {
  const root = rootInode(image);
  const stack: Array<{ path: string; nid: number; depth: number }> = [{ path: "", nid: root, depth: 0 }];
  let left = image.length / k.INODE_SLOT_BYTES;
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { inode, entry } = readInode(image, next.nid, next.path);
    yield entry;
    if (entry.kind !== "directory") continue;
    // A damaged image may hold a directory within itself.
    if (next.depth > DEPTH_MAX) throw corrupt("directories lie too deep");
    const children = [...readDirectory(image, inode)].reverse();
    left -= children.length;
    if (left < 0) throw corrupt("it holds more names than it has room for");
    for (const { name, nid } of children) {
      stack.push({ path: next.path === "" ? name : `${next.path}/${name}`, nid, depth: next.depth + 1 });
    }
  }
}

function rootInode(image: Buffer): number {
  if (image.length < BLOCK_BYTES || image.readUInt32LE(k.SUPERBLOCK_OFFSET) !== k.EROFS_MAGIC)
    throw corrupt("it has no superblock");
  const superblock = Buffer.from(image.subarray(k.SUPERBLOCK_OFFSET, BLOCK_BYTES));
  const checksum = superblock.readUInt32LE(4);
  superblock.writeUInt32LE(0, 4);
  if (crc32c(0xffff_ffff, superblock) !== checksum) throw corrupt("its superblock has another checksum");
  const features = superblock.readUInt32LE(80);
  if (features !== (k.INCOMPAT_CHUNKED_FILE | k.INCOMPAT_DEVICE_TABLE)) {
    throw new PlatformError(
      "unsupported",
      `EROFS features 0x${features.toString(16)} are not what this package writes`,
    );
  }
  return superblock.readUInt16LE(14);
}

type RawInode = { at: number; layout: number; size: number; tailAt: number; block: number };

function readInode(image: Buffer, nid: number, path: string): { inode: RawInode; entry: ErofsEntry } {
  const at = nid * k.INODE_SLOT_BYTES;
  if (at + k.INODE_BYTES > image.length) throw corrupt("an inode lies outside");
  const format = image.readUInt16LE(at);
  const layout = (format >> 1) & 7;
  if ((format & 1) !== 1)
    throw new PlatformError("unsupported", "compact inodes are not what this package writes");
  const xattrCount = image.readUInt16LE(at + 2);
  const xattrBytes = xattrCount === 0 ? 0 : k.XATTR_HEADER_BYTES + (xattrCount - 1) * 4;
  const mode = image.readUInt16LE(at + 4);
  const kind = KIND_BY_FORMAT.get(mode & 0o170000);
  if (kind === undefined) throw corrupt("an inode is of no known kind");
  const size = safe(image.readBigUInt64LE(at + 8));
  const union = image.readUInt32LE(at + 16);
  const tailAt = at + k.INODE_BYTES + xattrBytes;
  const inode: RawInode = { at, layout, size, tailAt, block: union };
  const device = kind === "charDevice" || kind === "blockDevice";
  const entry: ErofsEntry = {
    path,
    kind,
    mode: mode & 0o7777,
    uid: image.readUInt32LE(at + 24),
    gid: image.readUInt32LE(at + 28),
    size,
    mtimeSeconds: Number(image.readBigInt64LE(at + 32)),
    mtimeNanoseconds: image.readUInt32LE(at + 40),
    links: image.readUInt32LE(at + 44),
    linkTarget: kind === "symlink" ? content(image, inode).toString("latin1") : "",
    devMajor: device ? (union >>> 8) & 0xfff : 0,
    devMinor: device ? (union & 0xff) | ((union >>> 12) & 0xfff00) : 0,
    xattrs: readXattrs(image, at + k.INODE_BYTES, xattrBytes),
    inode: nid,
    contentOffset: layout === k.LAYOUT_CHUNK_BASED ? contentOffset(image, inode) : undefined,
  };
  return { inode, entry };
}

function contentOffset(image: Buffer, inode: RawInode): number {
  const at = Math.ceil(inode.tailAt / k.CHUNK_INDEX_BYTES) * k.CHUNK_INDEX_BYTES;
  const bits = inode.block & 0x1f;
  if (at + k.CHUNK_INDEX_BYTES > image.length || (inode.block & k.CHUNK_FORMAT_INDEXES) === 0)
    throw corrupt("a chunk index is missing");
  if (BLOCK_BYTES * 2 ** bits < inode.size || image.readUInt16LE(at + 2) !== k.DATA_DEVICE) {
    throw new PlatformError("unsupported", "a file in several runs is not what this package writes");
  }
  return image.readUInt32LE(at + 4) * BLOCK_BYTES;
}

/** The content of a directory or a link: whole blocks first, then the tail behind the inode. */
function content(image: Buffer, inode: RawInode): Buffer {
  if (inode.layout !== k.LAYOUT_FLAT_INLINE && inode.layout !== k.LAYOUT_FLAT_PLAIN)
    throw corrupt("a directory or link is laid out as a file");
  if (inode.size > image.length) throw corrupt("a directory or link is larger than the image");
  const tail = inode.layout === k.LAYOUT_FLAT_INLINE ? inode.size % BLOCK_BYTES : 0;
  const start = inode.block * BLOCK_BYTES;
  const whole = inode.size - tail;
  if ((whole > 0 && start + whole > image.length) || inode.tailAt + tail > image.length)
    throw corrupt("content lies outside");
  return Buffer.concat([
    image.subarray(start, start + whole),
    image.subarray(inode.tailAt, inode.tailAt + tail),
  ]);
}

function* readDirectory(image: Buffer, inode: RawInode): Generator<{ name: string; nid: number }> {
  const bytes = content(image, inode);
  for (let start = 0; start < bytes.length; start += BLOCK_BYTES) {
    const block = bytes.subarray(start, Math.min(start + BLOCK_BYTES, bytes.length));
    if (block.length < k.DIRENT_BYTES) throw corrupt("a directory block is too short");
    const count = block.readUInt16LE(8) / k.DIRENT_BYTES;
    if (!Number.isInteger(count) || count === 0 || count * k.DIRENT_BYTES > block.length)
      throw corrupt("a directory block is malformed");
    for (let i = 0; i < count; i++) {
      const at = i * k.DIRENT_BYTES;
      const from = block.readUInt16LE(at + 8);
      const to = i + 1 < count ? block.readUInt16LE(at + k.DIRENT_BYTES + 8) : block.length;
      if (from > to || to > block.length) throw corrupt("a name lies outside its directory block");
      const name = block.toString("latin1", from, to).replace(/\0+$/, "");
      if (name !== "." && name !== "..") {
        if (name === "" || name.includes("/")) throw corrupt("a name is no name");
        yield { name, nid: safe(block.readBigUInt64LE(at)) };
      }
    }
  }
}

function readXattrs(image: Buffer, start: number, bytes: number): Map<string, Buffer> {
  const xattrs = new Map<string, Buffer>();
  if (start + bytes > image.length) throw corrupt("extended attributes lie outside");
  let at = start + k.XATTR_HEADER_BYTES;
  const end = start + bytes;
  while (at + k.XATTR_ENTRY_BYTES <= end) {
    const nameLength = image[at] ?? 0;
    const valueLength = image.readUInt16LE(at + 2);
    const prefix = k.XATTR_PREFIXES.find(({ index }) => index === image[at + 1]);
    const nameAt = at + k.XATTR_ENTRY_BYTES;
    if (prefix === undefined || nameAt + nameLength + valueLength > end)
      throw corrupt("an extended attribute is malformed");
    const name = prefix.prefix + image.toString("latin1", nameAt, nameAt + nameLength);
    xattrs.set(name, Buffer.from(image.subarray(nameAt + nameLength, nameAt + nameLength + valueLength)));
    at = start + Math.ceil((nameAt + nameLength + valueLength - start) / 4) * 4;
  }
  return xattrs;
}

function safe(value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw corrupt("a number is beyond 2^53");
  return number;
}

function corrupt(why: string): PlatformError {
  return new PlatformError("corrupt", `not valid EROFS metadata: ${why}`, {
    remedy: "Convert the image again.",
  });
}
