// Values of generated tensors: uniform, from a generator seeded by the model's seed and the tensor's name, so that a
// tensor's bytes do not depend on its neighbours. Only exact arithmetic, so every machine makes the same bytes. A
// table turns 16 random bits into a value, about 0.7 GB/s on one core.
import { createHash } from "node:crypto";
import { toBf16 } from "../bf16.ts";
import type { ModelTensor } from "./tensors.ts";

const PIECE_BYTES = 4 * 1024 * 1024;

export type FloatType = "BF16" | "F32";

/** Makes the values of tensors in order; tables are shared between tensors of equal spread. */
export class ValueMaker {
  readonly #seed: number;
  readonly #type: FloatType;
  readonly #tables = new Map<string, Uint16Array | Float32Array>();

  constructor(seed: number, type: FloatType) {
    this.#seed = seed;
    this.#type = type;
  }

  /** The tensor's little-endian bytes in pieces. */
  *pieces(tensor: ModelTensor): Generator<Uint8Array> {
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    const table = this.#table(tensor);
    const random = seeded(`${this.#seed}/${tensor.name}`);
    const perPiece = PIECE_BYTES / table.BYTES_PER_ELEMENT;
    for (let done = 0; done < count; done += perPiece) {
      const values = newLike(table, Math.min(perPiece, count - done));
      fill(values, table, random);
      yield new Uint8Array(values.buffer);
    }
  }

  #table({ fill, shape }: ModelTensor): Uint16Array | Float32Array {
    const [mean, deviation] =
      fill.kind === "matrix" ? [0, 1 / Math.sqrt(shape.at(-1) ?? 1)] : [fill.mean, fill.deviation];
    const key = `${mean}/${deviation}`;
    const known = this.#tables.get(key);
    if (known !== undefined) return known;
    const table = this.#type === "BF16" ? new Uint16Array(65_536) : new Float32Array(65_536);
    const halfWidth = deviation * Math.sqrt(3);
    for (let i = 0; i < 65_536; i++) {
      const value = mean + ((i - 32_767.5) / 32_768) * halfWidth;
      table[i] = this.#type === "BF16" ? toBf16(value) : value;
    }
    this.#tables.set(key, table);
    return table;
  }
}

function newLike(table: Uint16Array | Float32Array, length: number): Uint16Array | Float32Array {
  return table instanceof Uint16Array ? new Uint16Array(length) : new Float32Array(length);
}

function fill(
  values: Uint16Array | Float32Array,
  table: Uint16Array | Float32Array,
  random: () => number,
): void {
  for (let i = 0; i + 1 < values.length; i += 2) {
    const bits = random();
    values[i] = table[bits & 0xffff] as number;
    values[i + 1] = table[bits >>> 16] as number;
  }
  if (values.length % 2 === 1) values[values.length - 1] = table[random() & 0xffff] as number;
}

/** sfc32 (PractRand's small fast counter): 32 random bits a call. */
function seeded(text: string): () => number {
  const digest = createHash("sha256").update(text).digest();
  let a = digest.readInt32LE(0);
  let b = digest.readInt32LE(4);
  let c = digest.readInt32LE(8);
  let counter = 1;
  return () => {
    const result = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + result;
    return result;
  };
}
