// FP8 as engines take it: E4M3 without infinities (OCP 8-bit floating point, "E4M3FN"): largest finite 448, smallest 2^-9.

export const E4M3_MAX = 448;
const MAX_CODE = 0x7e;
const NORMAL_MIN = 2 ** -6;
const SUBNORMAL_STEP = 2 ** -9;

const scratch = new Float32Array(1);
const bits = new Uint32Array(scratch.buffer);

/** The code nearest to a finite value, ties to even; what is too large becomes the largest. */
export function toE4m3(value: number): number {
  const sign = value < 0 ? 0x80 : 0;
  const size = Math.abs(value);
  if (size >= E4M3_MAX) return sign | MAX_CODE;
  if (size < NORMAL_MIN) return sign | roundHalfEven(size / SUBNORMAL_STEP);
  scratch[0] = size;
  const word = bits[0] as number;
  const rounded = word + 0x7ffff + ((word >>> 20) & 1);
  return sign | Math.min(MAX_CODE, (rounded >>> 20) - (120 << 3));
}

/** The value of every code. */
export const E4M3_VALUES: Float32Array = Float32Array.from({ length: 256 }, (_, code) => {
  const exponent = (code >>> 3) & 15;
  const fraction = code & 7;
  if ((code & 0x7f) === 0x7f) return Number.NaN;
  const size = exponent === 0 ? fraction * SUBNORMAL_STEP : (1 + fraction / 8) * 2 ** (exponent - 7);
  return code & 0x80 ? -size : size;
});

/** For numbers below 2^51: a sum with 1.5·2^52 has no room for a fraction, and the hardware rounds ties to even. */
export function roundHalfEven(value: number): number {
  return value + ROUNDING - ROUNDING;
}
const ROUNDING = 1.5 * 2 ** 52;
