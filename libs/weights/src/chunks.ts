// Cutting files into ranges to fetch, and telling which tensors are complete as ranges arrive in any order. Pure.
import type { TensorEntry } from "@pilotlight/safetensors";

/** A range of one file to fetch in one request. */
export type Chunk = { file: number; offset: number; length: number };

/** A large repository is cut into about so many ranges at least: each costs this process work, whatever its size. */
const CHUNKS_WANTED = 96;
/** Larger ones would keep many connections busy with too little at the end of a load. */
const CHUNK_GROWTH_MAX = 4;

/** How large the ranges of a repository are: a multiple of `chunkBytes`. All nodes come to the same. */
export function chunkBytesFor(repositoryBytes: number, chunkBytes: number): number {
  const growth = Math.floor(repositoryBytes / (CHUNKS_WANTED * chunkBytes));
  return chunkBytes * Math.min(CHUNK_GROWTH_MAX, Math.max(1, growth));
}

/** Ranges of `chunkBytes` (the last shorter), file by file, front to back. */
export function* cutIntoChunks(fileBytes: readonly number[], chunkBytes: number): Generator<Chunk> {
  for (const [file, bytes] of fileBytes.entries()) {
    for (let offset = 0; offset < bytes; offset += chunkBytes) {
      yield { file, offset, length: Math.min(chunkBytes, bytes - offset) };
    }
  }
}

/**
 * Which of a file's tensors are complete. Chunks may arrive in any order, each once. Tensors are sorted by offset, as
 * a parsed header has them; one without bytes is complete with the first chunk.
 */
export class TensorTracker {
  readonly #tensors: readonly TensorEntry[];
  /** Bytes still missing of each tensor. */
  readonly #missing: number[];
  #empty: TensorEntry[];

  constructor(tensors: readonly TensorEntry[]) {
    this.#tensors = tensors;
    this.#missing = tensors.map(({ length }) => length);
    this.#empty = tensors.filter(({ length }) => length === 0);
  }

  /** The tensors that this range completes. */
  arrived(offset: number, length: number): TensorEntry[] {
    const end = offset + length;
    const completed = this.#empty;
    this.#empty = [];
    for (let i = this.#firstEndingAfter(offset); i < this.#tensors.length; i++) {
      const tensor = this.#tensors[i] as TensorEntry;
      if (tensor.offset >= end) break;
      const overlap = Math.min(end, tensor.offset + tensor.length) - Math.max(offset, tensor.offset);
      if (overlap <= 0) continue;
      const missing = (this.#missing[i] as number) - overlap;
      this.#missing[i] = missing;
      if (missing === 0) completed.push(tensor);
    }
    return completed;
  }

  #firstEndingAfter(offset: number): number {
    let low = 0;
    let high = this.#tensors.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { offset: start, length } = this.#tensors[middle] as TensorEntry;
      if (start + length > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
