// Rows of weights to codes and scales. Symmetric, to the nearest; for 4 bits each group has the scale of least squared error
// (group-scale.ts). Pure, and the same on every machine: only IEEE arithmetic in one order.
import { fromBf16, toBf16 } from "@pilotlight/models";
import { E4M3_MAX, E4M3_VALUES, roundHalfEven, toE4m3 } from "./float8.ts";
import { INT4_CODES, leastErrorScale } from "./group-scale.ts";
import type { Scheme } from "./scheme.ts";

/** What rounding has cost a tensor so far. */
export type RoundingError = { squaredError: number; squaredValues: number; maxAbsError: number };

export type QuantisedRows = {
  /** As they lie in the file: one byte a weight, or two weights a byte with the earlier in the low half. */
  codes: Uint8Array;
  /** One per row and group, in order, already rounded to the type they are kept in. */
  scales: Float32Array;
};

/** Of the codes. */
const CODE_RANGE = { int4: INT4_CODES, int8: { min: -128, max: 127 } };

/** `columns` divides the values into rows. Adds to `error`. Values must be finite. */
export function quantiseRows(
  values: Float32Array,
  columns: number,
  scheme: Scheme,
  scaleType: "BF16" | "F32",
  error: RoundingError,
): QuantisedRows {
  const size = scheme.groupSize ?? columns;
  const scales = new Float32Array(values.length / size);
  const codes = new Uint8Array(scheme.name === "int4" ? values.length / 2 : values.length);
  for (let group = 0; group < scales.length; group++) {
    const begin = group * size;
    const weights = values.subarray(begin, begin + size);
    const scale = chooseScale(weights, scheme, scaleType);
    scales[group] = scale;
    if (scheme.name === "fp8") encodeFloat(weights, scale, codes, begin, error);
    else encodeInt(weights, scale, scheme.name, codes, begin, error);
  }
  return { codes, scales };
}

function chooseScale(weights: Float32Array, { name }: Scheme, type: "BF16" | "F32"): number {
  if (name === "int4") return leastErrorScale(weights, (scale) => rounded(scale, type));
  let largest = 0;
  for (let i = 0; i < weights.length; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
  return rounded(largest / (name === "fp8" ? E4M3_MAX : 127), type);
}

/** The scale as it is kept; never zero, so that nothing is divided by it. */
function rounded(scale: number, type: "BF16" | "F32"): number {
  return (type === "BF16" ? fromBf16(toBf16(scale)) : Math.fround(scale)) || 1;
}

function encodeInt(
  weights: Float32Array,
  scale: number,
  name: "int8" | "int4",
  codes: Uint8Array,
  begin: number,
  error: RoundingError,
): void {
  const { min, max } = CODE_RANGE[name];
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    const code = Math.max(min, Math.min(max, roundHalfEven(weight / scale)));
    note(error, weight, code * scale);
    const at = begin + i;
    if (name === "int8") codes[at] = code - min;
    else codes[at >>> 1] = (codes[at >>> 1] as number) | ((code - min) << (4 * (at & 1)));
  }
}

function encodeFloat(
  weights: Float32Array,
  scale: number,
  codes: Uint8Array,
  begin: number,
  error: RoundingError,
): void {
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    const code = toE4m3(weight / scale);
    note(error, weight, (E4M3_VALUES[code] as number) * scale);
    codes[begin + i] = code;
  }
}

function note(error: RoundingError, weight: number, back: number): void {
  const off = weight - back;
  error.squaredError += off * off;
  error.squaredValues += weight * weight;
  const size = Math.abs(off);
  if (size > error.maxAbsError) error.maxAbsError = size;
}

/** Weights back from codes and scales. */
export function dequantise(
  codes: Uint8Array,
  scales: Float32Array,
  groupSize: number,
  scheme: Scheme,
): Float32Array {
  const values = new Float32Array(scheme.name === "int4" ? codes.length * 2 : codes.length);
  for (let i = 0; i < values.length; i++) {
    const scale = scales[Math.floor(i / groupSize)] as number;
    values[i] = weightOf(codes, i, scheme) * scale;
  }
  return values;
}

function weightOf(codes: Uint8Array, i: number, { name }: Scheme): number {
  if (name === "fp8") return E4M3_VALUES[codes[i] as number] as number;
  if (name === "int8") return (codes[i] as number) - 128;
  return (((codes[i >>> 1] as number) >>> (4 * (i & 1))) & 15) - 8;
}
