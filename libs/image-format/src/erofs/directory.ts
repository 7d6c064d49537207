// Directory content in EROFS: blocks of 4 KiB, each with its entries' fixed parts first and their names behind, all
// entries in byte order of their names so that the kernel can search them.

import { compareBytes } from "../byte-string.ts";
import { BLOCK_BYTES } from "../chunker.ts";
import type { Inode } from "../merge.ts";
import { DIRENT_BYTES } from "./constants.ts";

export type DirectoryEntry = { name: string; inode: Inode };

/** The entries of a directory with "." and "..", sorted, cut into blocks, with the content's size. */
export type DirectoryLayout = { blocks: DirectoryEntry[][]; size: number };

export function layOutDirectory(inode: Inode, parent: Inode): DirectoryLayout {
  const entries: DirectoryEntry[] = [
    { name: ".", inode },
    { name: "..", inode: parent },
  ];
  for (const [name, child] of inode.children ?? []) entries.push({ name, inode: child });
  entries.sort((a, b) => compareBytes(a.name, b.name));
  const blocks: DirectoryEntry[][] = [];
  let block: DirectoryEntry[] = [];
  let used = 0;
  for (const entry of entries) {
    const bytes = DIRENT_BYTES + entry.name.length;
    if (used + bytes > BLOCK_BYTES) {
      blocks.push(block);
      block = [];
      used = 0;
    }
    block.push(entry);
    used += bytes;
  }
  blocks.push(block);
  return { blocks, size: (blocks.length - 1) * BLOCK_BYTES + used };
}

/** Writes one block at `at`. Bytes up to the block's end must be zero already. */
export function writeDirectoryBlock(
  out: Buffer,
  at: number,
  block: DirectoryEntry[],
  nidOf: (inode: Inode) => number,
  typeOf: (inode: Inode) => number,
): void {
  let nameOffset = block.length * DIRENT_BYTES;
  block.forEach(({ name, inode }, i) => {
    const entry = at + i * DIRENT_BYTES;
    out.writeBigUInt64LE(BigInt(nidOf(inode)), entry);
    out.writeUInt16LE(nameOffset, entry + 8);
    out[entry + 10] = typeOf(inode);
    out.write(name, at + nameOffset, "latin1");
    nameOffset += name.length;
  });
}
