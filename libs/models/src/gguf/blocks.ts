// The block formats of GGUF tensors that are read here, after llama.cpp's ggml-quants.c: how many values a block
// holds, in how many bytes, and how to expand it. Arithmetic is in 32-bit floats in the reference's order, so results
// equal it bit for bit (the tests hold vectors of PyPI's `gguf`).
import { PlatformError } from "@pilotlight/errors";
import { fromBf16, fromF16 } from "../bf16.ts";

export type BlockFormat = {
  name: string;
  /** Values in a block. */
  values: number;
  /** Bytes of a block. */
  bytes: number;
  /** Expands the block at `at` of `source` into `target` from `to`. */
  expand(source: DataView, at: number, target: Float32Array, to: number): void;
};

const f32 = Math.fround;
/** Adding it changes no number; +0 would turn −0 into +0. */
const NOTHING = -0;
const half = (source: DataView, at: number): number => fromF16(source.getUint16(at, true));

const plain = (name: string, bytes: number, read: (source: DataView, at: number) => number): BlockFormat => ({
  name,
  values: 1,
  bytes,
  expand: (source, at, target, to) => {
    target[to] = read(source, at);
  },
});

/** Blocks of 32 four-bit values: value = scale × (q − 8), or scale × q + minimum. */
const fourBit = (name: string, withMinimum: boolean): BlockFormat => ({
  name,
  values: 32,
  bytes: withMinimum ? 20 : 18,
  expand: (source, at, target, to) => {
    const scale = half(source, at);
    const minimum = withMinimum ? half(source, at + 2) : NOTHING;
    const shift = withMinimum ? 0 : 8;
    const quants = at + (withMinimum ? 4 : 2);
    for (let i = 0; i < 16; i++) {
      const pair = source.getUint8(quants + i);
      target[to + i] = f32(scale * ((pair & 15) - shift)) + minimum;
      target[to + i + 16] = f32(scale * ((pair >> 4) - shift)) + minimum;
    }
  },
});

/** As fourBit with a fifth bit of each value in a separate word. */
const fiveBit = (name: string, withMinimum: boolean): BlockFormat => ({
  name,
  values: 32,
  bytes: withMinimum ? 24 : 22,
  expand: (source, at, target, to) => {
    const scale = half(source, at);
    const minimum = withMinimum ? half(source, at + 2) : NOTHING;
    const shift = withMinimum ? 0 : 16;
    const head = at + (withMinimum ? 4 : 2);
    const high = source.getUint32(head, true);
    for (let i = 0; i < 16; i++) {
      const pair = source.getUint8(head + 4 + i);
      const lower = (pair & 15) | (((high >>> i) & 1) << 4);
      const upper = (pair >> 4) | (((high >>> (i + 16)) & 1) << 4);
      target[to + i] = f32(scale * (lower - shift)) + minimum;
      target[to + i + 16] = f32(scale * (upper - shift)) + minimum;
    }
  },
});

const Q8_0: BlockFormat = {
  name: "Q8_0",
  values: 32,
  bytes: 34,
  expand: (source, at, target, to) => {
    const scale = half(source, at);
    for (let i = 0; i < 32; i++) target[to + i] = scale * source.getInt8(at + 2 + i);
  },
};

/** The 6-bit scale and minimum of sub-block `j` of a K-quant, packed in 12 bytes at `at`. */
function scaleAndMinimum(source: DataView, at: number, j: number): [number, number] {
  if (j < 4) return [source.getUint8(at + j) & 63, source.getUint8(at + j + 4) & 63];
  const low = source.getUint8(at + j + 4);
  return [
    (low & 15) | ((source.getUint8(at + j - 4) >> 6) << 4),
    (low >> 4) | ((source.getUint8(at + j) >> 6) << 4),
  ];
}

/** Q4_K and Q5_K: 256 values in 8 sub-blocks, each with a scale and a minimum of 6 bits. */
const superBlock = (name: string, fifthBit: boolean): BlockFormat => ({
  name,
  values: 256,
  bytes: fifthBit ? 176 : 144,
  expand: (source, at, target, to) => {
    const scale = half(source, at);
    const minimum = half(source, at + 2);
    const high = at + 16;
    const quants = at + (fifthBit ? 48 : 16);
    for (let j = 0; j < 8; j++) {
      const [s, m] = scaleAndMinimum(source, at + 4, j);
      const step = f32(scale * s);
      const offset = f32(minimum * m);
      for (let i = 0; i < 32; i++) {
        const pair = source.getUint8(quants + (j >> 1) * 32 + i);
        const low = j & 1 ? pair >> 4 : pair & 15;
        const bit = fifthBit ? ((source.getUint8(high + i) >> j) & 1) << 4 : 0;
        target[to + j * 32 + i] = f32(step * (low | bit)) - offset;
      }
    }
  },
});

/** 256 values of 6 bits in 16 sub-blocks with a signed 8-bit scale each. */
const Q6_K: BlockFormat = {
  name: "Q6_K",
  values: 256,
  bytes: 210,
  expand: (source, at, target, to) => {
    const scale = half(source, at + 208);
    for (let i = 0; i < 256; i++) {
      // Two halves of 128; in each, four runs of 32 share bytes.
      const part = i >> 7;
      const run = (i >> 5) & 3;
      const column = i & 31;
      const low = source.getUint8(at + part * 64 + (run & 1) * 32 + column);
      const high = source.getUint8(at + 128 + part * 32 + column);
      const quant = ((run & 2 ? low >> 4 : low & 15) | (((high >> (run * 2)) & 3) << 4)) - 32;
      target[to + i] = f32(scale * source.getInt8(at + 192 + (i >> 4))) * quant;
    }
  },
};

/** By GGML's type number. */
const FORMATS = new Map<number, BlockFormat>([
  [0, plain("F32", 4, (source, at) => source.getFloat32(at, true))],
  [1, plain("F16", 2, half)],
  [2, fourBit("Q4_0", false)],
  [3, fourBit("Q4_1", true)],
  [6, fiveBit("Q5_0", false)],
  [7, fiveBit("Q5_1", true)],
  [8, Q8_0],
  [12, superBlock("Q4_K", false)],
  [13, superBlock("Q5_K", true)],
  [14, Q6_K],
  [30, plain("BF16", 2, (source, at) => fromBf16(source.getUint16(at, true)))],
]);

/** The format of a GGML type number. Throws `unsupported` for the ones not read here. */
export function blockFormat(type: number): BlockFormat {
  const format = FORMATS.get(type);
  if (format !== undefined) return format;
  throw new PlatformError("unsupported", `GGUF tensor type ${type} is not supported`, {
    remedy: `Use a file in one of ${[...FORMATS.values()].map(({ name }) => name).join(", ")}.`,
  });
}

/** Expands whole blocks; `target` gets all values that `bytes` hold. */
export function expandBlocks(format: BlockFormat, bytes: Uint8Array, target: Float32Array): void {
  const source = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const blocks = bytes.byteLength / format.bytes;
  for (let i = 0; i < blocks; i++) format.expand(source, i * format.bytes, target, i * format.values);
}
