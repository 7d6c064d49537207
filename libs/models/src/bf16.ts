// 16-bit floats: bfloat16 (the upper half of a 32-bit float) and IEEE half precision.

const scratch = new Float32Array(1);
const bits = new Uint32Array(scratch.buffer);

/** The bf16 bits nearest to `value`, ties to even; NaN stays NaN. */
export function toBf16(value: number): number {
  scratch[0] = value;
  return roundBits(bits[0] as number);
}

/** Rounds each of `values` into `target`. */
export function roundToBf16(values: Float32Array, target: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) target[i] = roundBits(words[i] as number);
}

function roundBits(word: number): number {
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 0x40;
  return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
}

/** The number that 16 bits of IEEE half precision stand for. */
export function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The number that 16 bits of bfloat16 stand for. */
export function fromBf16(value: number): number {
  bits[0] = value << 16;
  return scratch[0] as number;
}
