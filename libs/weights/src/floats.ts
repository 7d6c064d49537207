// Floating-point numbers of one width into another, as PyTorch's `to` rounds them: to the nearest, ties to even; what is too large
// becomes infinite. Pure.
import { PlatformError } from "@pilotlight/errors";
import { roundToBf16 } from "@pilotlight/models/bf16";
import type { Dtype } from "@pilotlight/safetensors";

/** What tensors can be converted to. */
export const TARGETS = ["F32", "F16", "BF16"] as const;
export type TargetDtype = (typeof TARGETS)[number];

const SOURCES: readonly Dtype[] = ["F64", "F32", "F16", "BF16"];

/** The dtype by name; undefined for an empty one. Throws invalidArgument for one that is no target. */
export function parseTarget(dtype: string): TargetDtype | undefined {
  if (dtype === "") return undefined;
  const target = TARGETS.find((known) => known === dtype);
  if (target !== undefined) return target;
  throw new PlatformError(
    "invalidArgument",
    `weights cannot be converted to ${JSON.stringify(dtype.slice(0, 40))}`,
    {
      field: "dtype",
      remedy: `Choose ${TARGETS.join(", ")}, or none. Quantised weights are made when a model is added.`,
    },
  );
}

/** What a tensor of this dtype becomes: floats of 16 bits and more are converted, everything else (codes, counts) stays. */
export const convertedDtype = (dtype: Dtype, target: TargetDtype): Dtype =>
  SOURCES.includes(dtype) ? target : dtype;

/** Converts whole elements, little-endian. The same dtype twice gives the bytes themselves. */
export function convertFloats(bytes: Uint8Array, from: Dtype, to: Dtype): Uint8Array {
  if (from === to) return bytes;
  const values = decode(bytes, from);
  switch (to) {
    case "F32":
      return bytesOf(values);
    case "F16":
      return bytesOf(new Float16Array(values));
    case "BF16": {
      const rounded = new Uint16Array(values.length);
      roundToBf16(values, rounded);
      return bytesOf(rounded);
    }
    default:
      throw new RangeError(`no conversion to ${to}`);
  }
}

/** 64 bits pass through 32, as PyTorch has it. */
function decode(bytes: Uint8Array, from: Dtype): Float32Array {
  switch (from) {
    case "F64":
      return new Float32Array(new Float64Array(aligned(bytes)));
    case "F32":
      return new Float32Array(aligned(bytes));
    case "F16":
      return new Float32Array(new Float16Array(aligned(bytes)));
    case "BF16": {
      const halves = new Uint16Array(aligned(bytes));
      const words = new Uint32Array(halves.length);
      for (let i = 0; i < halves.length; i++) words[i] = (halves[i] as number) << 16;
      return new Float32Array(words.buffer);
    }
    default:
      throw new RangeError(`no conversion from ${from}`);
  }
}

/** A buffer of its own, so that it begins on an element. */
const aligned = (bytes: Uint8Array): ArrayBuffer => new Uint8Array(bytes).buffer;

const bytesOf = (values: Float32Array | Float16Array | Uint16Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
