// Cuts the file contents of one layer into chunks, the units of transfer, checksum and deduplication.
//   C1. Files start at multiples of 4 KiB and are padded with zeros, so that a chunk can be mapped as it is.
//   C2. A file above half a group has chunks of its own, cut every `chunkBytes` from its start: an unchanged file gives
//       the same chunks whatever stands around it.
//   C3. Smaller files share group chunks of a quarter of that size, for a changed file changes its whole group. A group ends
//       when full, or after a file whose path says so (a hash of the path against the file's share of a group): a file that
//       was added, removed or changed shifts its own group only.
//   C4. The chunks of one file are numbered consecutively; numbers depend on the layer's bytes alone.
// No clock, no I/O: finished chunks go to a sink that owns the buffers from then on.
import { PlatformError } from "@pilotlight/errors";

export const BLOCK_BYTES = 4096;

/** Part of every layer key: a change of the cutting rules must not meet records made by the old ones. */
export const CHUNKER_VERSION = 2;

const GROUPS_A_CHUNK = 4;

/** Where a file's content begins in its layer. Empty files have none. */
export type ChunkPlace = { chunk: number; offset: number };

export type ChunkSink = {
  /** Gives a buffer of `chunkBytes`; its content does not matter. */
  acquire(): Buffer;
  /** Takes `buffer` back with `length` bytes filled, a multiple of 4 KiB. Called once for each number, in any order. */
  chunk(number: number, buffer: Buffer, length: number): void;
  /** Chunk `number` is `chunkBytes` of zeros: of a hole, which is cut without buffers. */
  zeros(number: number): void;
};

type Open = { number: number; buffer: Buffer; length: number };

export class Chunker {
  readonly #chunkBytes: number;
  readonly #groupBytes: number;
  readonly #sink: ChunkSink;
  #nextNumber = 0;
  #emitted = 0;
  /** The group that small files are put in. */
  #group: Open | undefined;
  /** The chunk that the current file writes to: its own, or the group. */
  #target: Open | undefined;
  #file: { path: string; big: boolean; left: number; padded: number } | undefined;

  constructor(chunkBytes: number, sink: ChunkSink) {
    checkChunkBytes(chunkBytes);
    this.#chunkBytes = chunkBytes;
    this.#groupBytes = chunkBytes / GROUPS_A_CHUNK;
    this.#sink = sink;
  }

  /** Number of chunks so far, open ones included. */
  get chunkCount(): number {
    return this.#nextNumber;
  }

  /** Number of buffers that the sink was given back to work on. */
  get emittedCount(): number {
    return this.#emitted;
  }

  /** Begins a file of `size` bytes; `size` bytes must be written before `endFile`. */
  beginFile(path: string, size: number): ChunkPlace | undefined {
    if (size === 0) return undefined;
    const padded = Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
    const big = padded > this.#groupBytes / 2;
    this.#file = { path, big, left: size, padded };
    if (big) {
      this.#target = this.#open();
    } else {
      if (this.#group !== undefined && this.#group.length + padded > this.#groupBytes) this.#closeGroup();
      this.#group ??= this.#open();
      this.#target = this.#group;
    }
    return { chunk: this.#target.number, offset: this.#target.length };
  }

  write(piece: Buffer): void {
    const file = this.#file;
    if (file === undefined || piece.length > file.left)
      throw new PlatformError("internal", "more data than the file has");
    let position = 0;
    while (position < piece.length) {
      let target = this.#target as Open;
      if (target.length === this.#chunkBytes) {
        this.#emit(target);
        target = this.#open();
        this.#target = target;
      }
      const taken = Math.min(piece.length - position, this.#chunkBytes - target.length);
      piece.copy(target.buffer, target.length, position, position + taken);
      target.length += taken;
      position += taken;
    }
    file.left -= piece.length;
  }

  /** Writes `bytes` zeros, in time that depends on the number of chunks alone. */
  hole(bytes: number): void {
    const file = this.#file;
    if (file === undefined || bytes > file.left)
      throw new PlatformError("internal", "a longer hole than the file has");
    file.left -= bytes;
    for (let left = bytes; left > 0; ) {
      let target = this.#target as Open;
      if (target.length === this.#chunkBytes) {
        this.#emit(target);
        for (; left > this.#chunkBytes; left -= this.#chunkBytes) this.#sink.zeros(this.#nextNumber++);
        target = this.#open();
        this.#target = target;
      }
      const end = Math.min(target.length + left, this.#chunkBytes);
      target.buffer.fill(0, target.length, end);
      left -= end - target.length;
      target.length = end;
    }
  }

  endFile(): void {
    const file = this.#file;
    const target = this.#target;
    if (file === undefined || target === undefined) return; // an empty file
    if (file.left !== 0) throw new PlatformError("internal", "less data than the file has");
    const end = Math.ceil(target.length / BLOCK_BYTES) * BLOCK_BYTES;
    target.buffer.fill(0, target.length, end);
    target.length = end;
    if (file.big) this.#emit(target);
    else if (endsGroup(file.path, file.padded, this.#groupBytes, target.length)) this.#closeGroup();
    this.#file = undefined;
    this.#target = undefined;
  }

  /** No more files: hands out the last group. */
  finish(): void {
    if (this.#group !== undefined) this.#closeGroup();
  }

  #open(): Open {
    return { number: this.#nextNumber++, buffer: this.#sink.acquire(), length: 0 };
  }

  #emit(open: Open): void {
    this.#emitted++;
    this.#sink.chunk(open.number, open.buffer, open.length);
  }

  #closeGroup(): void {
    if (this.#group !== undefined) this.#emit(this.#group);
    this.#group = undefined;
  }
}

/** Chunk sizes are powers of two from 64 KiB to 4 MiB. */
export function checkChunkBytes(chunkBytes: number): void {
  if (!Number.isInteger(Math.log2(chunkBytes)) || chunkBytes < 64 << 10 || chunkBytes > 4 << 20) {
    throw new PlatformError(
      "invalidArgument",
      `chunkBytes ${chunkBytes} is not a power of two from 64 KiB to 4 MiB`,
      {
        field: "chunkBytes",
      },
    );
  }
}

/** A quarter full at least, then with a chance that gives a cut about every half group of bytes. */
function endsGroup(path: string, padded: number, groupBytes: number, bytes: number): boolean {
  return bytes >= groupBytes / 4 && fnv1a(path) / 2 ** 32 < padded / (groupBytes / 2);
}

/** FNV-1a, 32 bits, finished by a multiply-shift mix: short paths must spread over the upper bits too. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b);
  return (hash ^ (hash >>> 16)) >>> 0;
}
