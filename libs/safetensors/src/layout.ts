// Laying out a new safetensors file: header bytes and where each tensor's data goes. Wider types come first, so that
// every tensor is aligned to its element (the reference library does the same); within a width the given order
// stays, because a streaming reader gets its tensors in file order and wants early layers early.
import { PlatformError } from "@pilotlight/errors";
import { DTYPE_BITS, type Dtype, tensorBytes } from "./dtype.ts";
import { HEADER_BYTES_MAX, LENGTH_BYTES, type TensorEntry } from "./header.ts";

export type NewTensor = { name: string; dtype: Dtype; shape: number[] };

export type FileLayout = {
  /** Length field and header: the file's first bytes. */
  head: Uint8Array;
  /** In file order; their data follows the head without gaps. */
  tensors: TensorEntry[];
  fileBytes: number;
};

const HEADER_ALIGNMENT = 8;

/** Plans a file. Names must be unique; throws invalidArgument otherwise. */
export function layoutFile(tensors: readonly NewTensor[], metadata: Record<string, string> = {}): FileLayout {
  const names = new Set(tensors.map(({ name }) => name));
  if (names.size !== tensors.length || names.has("__metadata__")) {
    throw new PlatformError("invalidArgument", "tensor names must be unique and not __metadata__", {
      field: "tensors",
    });
  }
  const ordered = [...tensors].sort((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]);
  let end = 0;
  const placed = ordered.map((tensor) => {
    const begin = end;
    end += tensorBytes(tensor.dtype, tensor.shape);
    return { ...tensor, begin, end };
  });
  const fields = placed.map(({ name, dtype, shape, begin, end }) => {
    return `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`;
  });
  if (Object.keys(metadata).length > 0) fields.unshift(`"__metadata__":${JSON.stringify(metadata)}`);
  const head = encodeHead(`{${fields.join(",")}}`);
  return {
    head,
    fileBytes: head.byteLength + end,
    tensors: placed.map(({ name, dtype, shape, begin, end }) => {
      return { name, dtype, shape, offset: head.byteLength + begin, length: end - begin };
    }),
  };
}

function encodeHead(json: string): Uint8Array {
  const text = Buffer.from(json);
  const padded = Math.ceil(text.byteLength / HEADER_ALIGNMENT) * HEADER_ALIGNMENT;
  if (padded > HEADER_BYTES_MAX) {
    throw new PlatformError(
      "invalidArgument",
      `a header of ${padded} bytes exceeds the format's ${HEADER_BYTES_MAX}`,
    );
  }
  const head = Buffer.alloc(LENGTH_BYTES + padded, " ");
  head.writeBigUInt64LE(BigInt(padded));
  text.copy(head, LENGTH_BYTES);
  return head;
}
