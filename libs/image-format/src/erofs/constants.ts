// The part of the EROFS on-disk format that is written here: extended inodes, flat and chunk-based data, one extra
// device. Source: Linux Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. All numbers little endian.
import type { InodeKind } from "../merge.ts";

export const EROFS_MAGIC = 0xe0f5e1e2;
export const SUPERBLOCK_OFFSET = 1024;
export const DEVICE_SLOT_BYTES = 128;
/** The slot follows the superblock: 9 * 128 = 1152. */
export const DEVICE_SLOT_INDEX = 9;

export const COMPAT_CHECKSUM = 0x1;
export const COMPAT_MTIME = 0x2;
export const INCOMPAT_CHUNKED_FILE = 0x4;
export const INCOMPAT_DEVICE_TABLE = 0x8;

export const INODE_BYTES = 64;
export const INODE_SLOT_BYTES = 32;
export const LAYOUT_FLAT_PLAIN = 0;
export const LAYOUT_FLAT_INLINE = 2;
export const LAYOUT_CHUNK_BASED = 4;
/** Chunk indexes of 8 bytes that name a device, instead of bare block numbers. */
export const CHUNK_FORMAT_INDEXES = 0x20;
export const CHUNK_INDEX_BYTES = 8;
export const DIRENT_BYTES = 12;
export const XATTR_HEADER_BYTES = 12;
export const XATTR_ENTRY_BYTES = 4;

/** The blob is device 1; device 0 is the metadata file itself. */
export const DATA_DEVICE = 1;

/** S_IFMT bits and the directory entry's type (FT_*) of each kind. */
export const KIND_CODES: Record<InodeKind, { format: number; dirent: number }> = {
  file: { format: 0o100000, dirent: 1 },
  directory: { format: 0o040000, dirent: 2 },
  charDevice: { format: 0o020000, dirent: 3 },
  blockDevice: { format: 0o060000, dirent: 4 },
  fifo: { format: 0o010000, dirent: 5 },
  symlink: { format: 0o120000, dirent: 7 },
};

/** Name prefixes that the format stores as a number; names with another prefix cannot be stored. */
export const XATTR_PREFIXES: ReadonlyArray<{ prefix: string; index: number; exact: boolean }> = [
  { prefix: "user.", index: 1, exact: false },
  { prefix: "system.posix_acl_access", index: 2, exact: true },
  { prefix: "system.posix_acl_default", index: 3, exact: true },
  { prefix: "security.", index: 6, exact: false },
];
