// A safetensors file begins with the length of its header (8 bytes, little-endian), the header, then the data
// (https://huggingface.co/docs/safetensors). These checks accept nothing that the reference library 0.8 refuses:
//   H1. The header is at most 100 MB and lies inside the file.
//   H2. Keys are unique; every tensor has a known dtype, a shape, and offsets that fit its size exactly.
//   H3. Sorted by offset, the tensors cover the data from its first byte to the file's last, without gap or overlap.
// Stricter than the reference in four harmless ways: repeated keys, unknown fields in a tensor, and tensors written
// as arrays are refused, and numbers stay below 2^53.
import { PlatformError } from "@pilotlight/errors";
import { type Dtype, tensorBytes } from "./dtype.ts";
import { type DeclaredTensor, parseHeaderJson } from "./header-json.ts";

/** Bytes of the length field in front of the header. */
export const LENGTH_BYTES = 8;
/** The reference library's limit. */
export const HEADER_BYTES_MAX = 100_000_000;

export type TensorEntry = {
  name: string;
  dtype: Dtype;
  shape: number[];
  /** Of its first byte, from the start of the file. */
  offset: number;
  /** Bytes. */
  length: number;
};

export type SafetensorsHeader = {
  /** The free-form strings under `__metadata__`. */
  metadata: Map<string, string>;
  /** In file order: each begins where the one before it ends. */
  tensors: TensorEntry[];
  /** Where the data begins, from the start of the file. */
  dataOffset: number;
  /** The whole file's size that the header implies. */
  fileBytes: number;
};

/**
 * The header's length from the file's first 8 bytes; the header follows at offset 8. `fileBytes` is the whole file's
 * size. Throws `corrupt` (H1).
 */
export function parseHeaderLength(first: Uint8Array, fileBytes: number): number {
  if (first.byteLength < LENGTH_BYTES || fileBytes < LENGTH_BYTES) {
    throw new PlatformError(
      "corrupt",
      `a safetensors file has at least ${LENGTH_BYTES} bytes, this one ${fileBytes}`,
    );
  }
  const view = new DataView(first.buffer, first.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(HEADER_BYTES_MAX)) {
    throw new PlatformError(
      "corrupt",
      `the header claims ${length} bytes, the format allows ${HEADER_BYTES_MAX}`,
      {
        remedy: "Check that this is a safetensors file.",
      },
    );
  }
  if (Number(length) + LENGTH_BYTES > fileBytes) {
    throw new PlatformError(
      "corrupt",
      `the header claims ${length} bytes, the file has ${fileBytes}: it is truncated`,
    );
  }
  return Number(length);
}

/**
 * Parses the header's bytes (without the length field) for a file of `fileBytes`. Throws `corrupt` naming the tensor
 * and what is wrong (H2, H3).
 */
export function parseHeader(bytes: Uint8Array, fileBytes: number): SafetensorsHeader {
  const { metadata, tensors: declared } = parseHeaderJson(decodeUtf8(bytes));
  const dataOffset = LENGTH_BYTES + bytes.byteLength;
  declared.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let position = 0;
  for (const tensor of declared) {
    checkTensor(tensor, position);
    position = tensor.end;
  }
  if (dataOffset + position !== fileBytes) {
    const relation = dataOffset + position > fileBytes ? "is truncated" : "has bytes that no tensor covers";
    throw new PlatformError(
      "corrupt",
      `the tensors end at byte ${dataOffset + position}, the file at ${fileBytes}: it ${relation}`,
    );
  }
  const tensors = declared.map(({ name, dtype, shape, begin, end }) => {
    return { name, dtype, shape, offset: dataOffset + begin, length: end - begin };
  });
  return { metadata, tensors, dataOffset, fileBytes };
}

function checkTensor(tensor: DeclaredTensor, position: number): void {
  const { name, dtype, shape, begin, end } = tensor;
  const label = JSON.stringify(name.slice(0, 80));
  if (begin !== position) {
    const relation = begin > position ? "leaves a gap" : "overlaps the one before it";
    throw new PlatformError(
      "corrupt",
      `tensor ${label} begins at ${begin}, expected ${position}: it ${relation}`,
    );
  }
  const expected = tensorBytes(dtype, shape);
  if (end - begin !== expected) {
    throw new PlatformError(
      "corrupt",
      `tensor ${label} (${dtype} [${shape}]) takes ${expected} bytes, its offsets give it ${end - begin}`,
    );
  }
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new PlatformError("corrupt", "the safetensors header is not valid UTF-8", { cause });
  }
}
