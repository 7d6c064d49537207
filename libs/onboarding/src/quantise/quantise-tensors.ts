// Which tensors of a decoder are quantised, and how one becomes two or three. Projections of the layers are; embeddings, the
// head, norms and the routers of experts stay as they were, as engines expect it.
import { PlatformError } from "@pilotlight/errors";
import { roundToBf16 } from "@pilotlight/models";
import type { PlannedTensor, Unit } from "../planned-tensor.ts";
import { type FloatType, isFloatType, rowBlocks } from "./row-blocks.ts";
import { quantiseRows, type RoundingError } from "./rows.ts";
import { type Scheme, schemeBits } from "./scheme.ts";

/** A projection of a layer: `….layers.7.mlp.up_proj.weight`, `….experts.3.w1.weight`. */
const PROJECTION = /(^|\.)layers\.\d+\..*(_proj|\.w[123])\.weight$/;

/** A layer of the model even where it shares the embeddings' matrix and has none of its own in the files. */
const HEAD = "lm_head";

/** What quantising a tensor has cost. */
export type TensorQuality = {
  name: string;
  shape: number[];
  /** √(Σ(w−w′)² / Σw²): 0 is perfect. */
  relativeRms: number;
  maxAbsError: number;
};

export type QuantisedPlan = {
  units: Unit[];
  /** Modules with a matrix that stay as they were. */
  ignored: string[];
  /** Of the tensors written so far, in their order. */
  quality: () => TensorQuality[];
};

/** Throws `unsupported` when there is nothing to quantise and `invalidArgument` when a group does not fit. */
export function quantiseTensors(tensors: readonly PlannedTensor[], scheme: Scheme): QuantisedPlan {
  const errors = new Map<string, TensorQuality>();
  const ignored = new Set<string>();
  const units = tensors.map((tensor): Unit => {
    if (isQuantised(tensor)) return quantised(tensor, scheme, (one) => errors.set(one.name, one));
    if (tensor.name.endsWith(".weight") && tensor.shape.length === 2) ignored.add(moduleOf(tensor.name));
    return [tensor];
  });
  if (units.every((unit) => unit.length === 1)) {
    throw new PlatformError("unsupported", "the model has no projections of decoder layers to quantise", {
      field: "quantize",
      remedy: "Quantise Llama-, Qwen- or Mistral-shaped decoders with F32, BF16 or F16 weights.",
    });
  }
  return { units, ignored: [...ignored.add(HEAD)], quality: () => [...errors.values()] };
}

type Matrix = PlannedTensor & { dtype: FloatType };

const isQuantised = (tensor: PlannedTensor): tensor is Matrix =>
  PROJECTION.test(tensor.name) && tensor.shape.length === 2 && isFloatType(tensor.dtype);

const moduleOf = (name: string): string => name.slice(0, -".weight".length);

function quantised(tensor: Matrix, scheme: Scheme, onDone: (quality: TensorQuality) => void): Unit {
  const [rows = 0, columns = 0] = tensor.shape;
  checkFits(tensor, columns, scheme);
  const module = moduleOf(tensor.name);
  const matrix = new QuantisedMatrix(tensor, columns, scheme, onDone);
  const scale: PlannedTensor = {
    name: `${module}.weight_scale`,
    dtype: matrix.scaleType,
    shape: [rows, columns / (scheme.groupSize ?? columns)],
    open: () => matrix.scales(),
  };
  if (scheme.name === "fp8") {
    return [
      { name: tensor.name, dtype: "F8_E4M3", shape: [rows, columns], open: () => matrix.codes() },
      scale,
    ];
  }
  const packed = [rows, (columns * schemeBits(scheme)) / 32];
  return [
    { name: `${module}.weight_shape`, dtype: "I64", shape: [2], open: () => integers(tensor.shape) },
    { name: `${module}.weight_packed`, dtype: "I32", shape: packed, open: () => matrix.codes() },
    scale,
  ];
}

/** Codes are packed into words of 32 bits, and no group may end inside a row. */
function checkFits({ name, shape }: PlannedTensor, columns: number, scheme: Scheme): void {
  const inWord = scheme.name === "fp8" ? 1 : 32 / schemeBits(scheme);
  const unit = scheme.groupSize ?? inWord;
  if (columns % unit === 0 && columns % inWord === 0) return;
  throw new PlatformError(
    "invalidArgument",
    `tensor ${JSON.stringify(name)} [${shape}]: rows of ${columns} are not made of groups of ${unit}`,
    { field: "groupSize", remedy: "Choose a smaller group size, or fp8 or int8." },
  );
}

/** One matrix on its way. Codes are made as they are read; the scales of this matrix wait for their turn. */
class QuantisedMatrix {
  readonly scaleType: "BF16" | "F32";
  readonly #tensor: Matrix;
  readonly #columns: number;
  readonly #scheme: Scheme;
  readonly #onDone: (quality: TensorQuality) => void;
  #scales: Uint8Array[] | undefined;

  constructor(tensor: Matrix, columns: number, scheme: Scheme, onDone: (quality: TensorQuality) => void) {
    this.#tensor = tensor;
    this.#columns = columns;
    this.#scheme = scheme;
    this.#onDone = onDone;
    this.scaleType = tensor.dtype === "F32" ? "F32" : "BF16";
  }

  async *codes(): AsyncGenerator<Uint8Array> {
    const error: RoundingError = { squaredError: 0, squaredValues: 0, maxAbsError: 0 };
    const { name, dtype, shape } = this.#tensor;
    const kept: Uint8Array[] = [];
    for await (const values of rowBlocks(this.#tensor.open(), { name, dtype, columns: this.#columns })) {
      const { codes, scales } = quantiseRows(values, this.#columns, this.#scheme, this.scaleType, error);
      kept.push(this.#encoded(scales));
      yield codes;
    }
    this.#scales = kept;
    const { squaredError, squaredValues, maxAbsError } = error;
    const relativeRms = squaredValues === 0 ? 0 : Math.sqrt(squaredError / squaredValues);
    this.#onDone({ name, shape, relativeRms, maxAbsError });
  }

  /** After the codes; asked for alone, the matrix is read for them. */
  async *scales(): AsyncGenerator<Uint8Array> {
    if (this.#scales === undefined) for await (const _ of this.codes());
    const scales = this.#scales ?? [];
    this.#scales = undefined;
    yield* scales;
  }

  #encoded(scales: Float32Array): Uint8Array {
    if (this.scaleType === "F32") return new Uint8Array(scales.buffer);
    const halves = new Uint16Array(scales.length);
    roundToBf16(scales, halves);
    return new Uint8Array(halves.buffer);
  }
}

async function* integers(values: readonly number[]): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
}
