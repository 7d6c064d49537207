// GGUF tensors as bf16 rows, piece by piece: read, expand, put the rows back in order, round. Memory is one piece.
import { type FileHandle, open } from "node:fs/promises";
import { PlatformError } from "@pilotlight/errors";
import { roundToBf16 } from "../bf16.ts";
import { expandBlocks } from "./blocks.ts";
import type { GgufTensor } from "./file.ts";

/** Values expanded at once, about. */
const PIECE_VALUES = 1024 * 1024;

/**
 * The tensors' values as little-endian bf16, one after another. `heads(tensor)` names the heads of a tensor whose
 * rows are stored interleaved; each head is put back into halves (undoing llama.cpp's permutation: stored row
 * `2i + j` of a head is row `i + j × rows/2`).
 */
export async function* bf16Pieces(
  path: string,
  tensors: readonly GgufTensor[],
  heads: (tensor: GgufTensor) => number | undefined,
): AsyncGenerator<Uint8Array> {
  const file = await open(path, "r");
  try {
    for (const tensor of tensors) yield* tensorPieces(file, tensor, heads(tensor));
  } finally {
    await file.close();
  }
}

async function* tensorPieces(
  file: FileHandle,
  tensor: GgufTensor,
  heads: number | undefined,
): AsyncGenerator<Uint8Array> {
  const columns = heads !== undefined && tensor.shape.length === 1 ? 1 : (tensor.shape.at(-1) ?? 1);
  const rows = tensor.shape.reduce((a, b) => a * b, 1) / columns;
  const unit = heads === undefined ? 1 : rows / heads;
  const rowsAtOnce = Math.max(unit, Math.floor(PIECE_VALUES / columns / unit) * unit);
  const rowBytes = tensor.length / rows;
  for (let row = 0; row < rows; row += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - row);
    const bytes = await readPart(file, tensor.offset + row * rowBytes, count * rowBytes);
    const values = new Float32Array(count * columns);
    expandBlocks(tensor.format, bytes, values);
    const rounded = new Uint16Array(values.length);
    roundToBf16(heads === undefined ? values : separateHalves(values, columns, unit), rounded);
    yield new Uint8Array(rounded.buffer);
  }
}

/** Puts the interleaved rows of each head back into two halves. */
export function separateHalves(values: Float32Array, columns: number, headRows: number): Float32Array {
  const ordered = new Float32Array(values.length);
  const half = headRows / 2;
  for (let row = 0; row * columns < values.length; row++) {
    const inHead = row % headRows;
    const target = row - inHead + (inHead >> 1) + (inHead & 1) * half;
    ordered.set(values.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return ordered;
}

async function readPart(file: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0) throw new PlatformError("corrupt", "the GGUF file became shorter while it was read");
    done += bytesRead;
  }
  return bytes;
}
