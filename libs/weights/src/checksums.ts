// Checking a file's bytes block by block against the digests that were kept when the model was added (I6). Pure.
import { crc32 } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";

export const WRONG_BYTES_REMEDY =
  "The bucket or the way to it changes bytes: check the storage, then add the model again.";

export type BlockChecksums = {
  blockBytes: number;
  /** CRC-32 of each block, 8 hex digits each. */
  blocks: string;
};

/** Feeds on a range's bytes in order; the range begins on a block and ends on one or at the file's end. */
export class RangeChecker {
  readonly #name: string;
  readonly #checksums: BlockChecksums;
  #block: number;
  #inBlock = 0;
  #crc = 0;

  constructor(name: string, checksums: BlockChecksums, offset: number) {
    this.#name = name;
    this.#checksums = checksums;
    this.#block = offset / checksums.blockBytes;
  }

  /** Throws `corrupt` as soon as a block is complete and wrong. */
  update(bytes: Uint8Array): void {
    const { blockBytes } = this.#checksums;
    for (let used = 0; used < bytes.byteLength; ) {
      const take = Math.min(bytes.byteLength - used, blockBytes - this.#inBlock);
      this.#crc = crc32(bytes.subarray(used, used + take), this.#crc);
      this.#inBlock += take;
      used += take;
      if (this.#inBlock === blockBytes) this.#endBlock();
    }
  }

  /** After the last byte. */
  finish(): void {
    if (this.#inBlock > 0) this.#endBlock();
  }

  #endBlock(): void {
    const expected = this.#checksums.blocks.slice(this.#block * 8, this.#block * 8 + 8);
    if (this.#crc.toString(16).padStart(8, "0") !== expected) {
      throw new PlatformError("corrupt", `${this.#name}: block ${this.#block} does not match its checksum`, {
        remedy: WRONG_BYTES_REMEDY,
      });
    }
    this.#block += 1;
    this.#inBlock = 0;
    this.#crc = 0;
  }
}
