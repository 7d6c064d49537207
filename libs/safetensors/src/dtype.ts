// The element types of the format and their widths in bits, as the reference library 0.8 knows them
// (https://github.com/huggingface/safetensors, safetensors/src/tensor.rs). Sub-byte types are packed without gaps.
import { PlatformError } from "@pilotlight/errors";

/** Every dtype, narrow to wide: the reference library's own order, which its writer sorts by. */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type Dtype = keyof typeof DTYPE_BITS;

export function isDtype(text: string): text is Dtype {
  return Object.hasOwn(DTYPE_BITS, text);
}

const U64_MAX = 2n ** 64n - 1n;

/**
 * Bytes of a tensor. Multiplies like the reference: left to right in 64 bits, an overflow is an error even when a
 * later dimension is zero; sub-byte tensors must end on a byte. Throws `corrupt`.
 */
export function tensorBytes(dtype: Dtype, shape: readonly number[]): number {
  let bits = 1n;
  for (const dimension of shape) bits = checked(bits * BigInt(dimension));
  bits = checked(bits * BigInt(DTYPE_BITS[dtype]));
  if (bits % 8n !== 0n) {
    throw new PlatformError("corrupt", `a ${dtype} tensor of shape [${shape}] does not end on a byte`);
  }
  const bytes = Number(bits / 8n);
  if (!Number.isSafeInteger(bytes)) throw tooLarge();
  return bytes;
}

function checked(value: bigint): bigint {
  if (value > U64_MAX) throw tooLarge();
  return value;
}

function tooLarge(): PlatformError {
  return new PlatformError("corrupt", "a tensor's shape overflows 64 bits");
}
