// A tensor's bytes, as they come, regrouped into whole rows of 32-bit floats: a block at a time is all that is held.
import { PlatformError } from "@pilotlight/errors";
import { fromF16 } from "@pilotlight/models";

/** Element types that can be quantised, and their bytes. */
const FLOAT_BYTES = { F32: 4, BF16: 2, F16: 2 } as const;
export type FloatType = keyof typeof FLOAT_BYTES;

export const isFloatType = (dtype: string): dtype is FloatType => Object.hasOwn(FLOAT_BYTES, dtype);

const BLOCK_BYTES = 1024 * 1024;

/** Blocks of whole rows, the last one shorter. Throws `corrupt` for values that are not finite. */
export async function* rowBlocks(
  pieces: AsyncIterable<Uint8Array>,
  tensor: { name: string; dtype: FloatType; columns: number },
): AsyncGenerator<Float32Array> {
  const rowBytes = tensor.columns * FLOAT_BYTES[tensor.dtype];
  const block = new Uint8Array(rowBytes * Math.max(1, Math.floor(BLOCK_BYTES / rowBytes)));
  let filled = 0;
  for await (const piece of pieces) {
    for (let used = 0; used < piece.byteLength; ) {
      const take = Math.min(piece.byteLength - used, block.byteLength - filled);
      block.set(piece.subarray(used, used + take), filled);
      filled += take;
      used += take;
      if (filled < block.byteLength) continue;
      yield widened(block, tensor);
      filled = 0;
    }
  }
  if (filled > 0) yield widened(block.subarray(0, filled), tensor);
}

/** `bytes` begins on an element; little-endian, as the format has it. */
function widened(bytes: Uint8Array, { name, dtype }: { name: string; dtype: FloatType }): Float32Array {
  const values = floatsOf(bytes, dtype);
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) continue;
    throw new PlatformError("corrupt", `tensor ${JSON.stringify(name)} holds a value that is not finite`, {
      remedy: "Add the model from a revision with sound weights.",
    });
  }
  return values;
}

/** The numbers in `bytes`, which begin on an element's boundary of their buffer. */
export function floatsOf(bytes: Uint8Array, dtype: FloatType): Float32Array {
  const { buffer, byteOffset } = bytes;
  const count = bytes.byteLength / FLOAT_BYTES[dtype];
  if (dtype === "F32") return new Float32Array(buffer, byteOffset, count).slice();
  const halves = new Uint16Array(buffer, byteOffset, count);
  if (dtype === "F16") return Float32Array.from(halves, fromF16);
  const words = new Uint32Array(count);
  for (let i = 0; i < count; i++) words[i] = (halves[i] as number) << 16;
  return new Float32Array(words.buffer);
}
