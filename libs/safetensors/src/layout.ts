// Laying out a new safetensors file: header bytes and where each tensor's data goes. The given order stays, because a
// streaming reader gets its tensors in file order and wants early layers early. Only where that would leave a tensor
// off its element's alignment, which readers of mapped files need, wider types come first, as the reference library has it.
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
  const given = place(tensors);
  const placed = given.every(isAligned)
    ? given
    : place([...tensors].sort((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]));
  const end = placed.at(-1)?.end ?? 0;
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

type Placed = NewTensor & { begin: number; end: number };

function place(tensors: readonly NewTensor[]): Placed[] {
  let end = 0;
  return tensors.map((tensor) => {
    const begin = end;
    end += tensorBytes(tensor.dtype, tensor.shape);
    return { ...tensor, begin, end };
  });
}

/** Data begin on a multiple of eight bytes of the file. */
const isAligned = ({ dtype, begin }: Placed): boolean => (begin * 8) % DTYPE_BITS[dtype] === 0;

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
