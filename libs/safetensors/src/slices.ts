// Which bytes of a tensor one rank of a tensor-parallel group needs. Pure: plans only.
// Splitting along the first dimension is one run of bytes; along a later one it is many equally spaced runs.
import { PlatformError } from "@pilotlight/errors";
import { DTYPE_BITS } from "./dtype.ts";
import type { TensorEntry } from "./header.ts";

/** Part of a tensor: `runs` pieces of `runBytes` each, `strideBytes` apart, the first at `offset` of the file. */
export type TensorSlice = {
  name: string;
  dtype: TensorEntry["dtype"];
  /** Of the slice. */
  shape: number[];
  offset: number;
  runBytes: number;
  strideBytes: number;
  runs: number;
  /** Bytes in all: runs × runBytes. */
  length: number;
};

/** How a tensor is divided between ranks: not at all, or along one dimension. */
export type Split =
  | { kind: "replicate" }
  | {
      kind: "split";
      /** Dimension that is divided. */
      dim: number;
      /**
       * Units that must not be cut (attention heads, for instance). With fewer units than ranks, neighbouring ranks
       * share one, as grouped key and value heads need. Default: single elements.
       */
      units?: number;
    };

export type Rank = { rank: number; ranks: number };

/** The slice of `tensor` for one rank. Throws invalidArgument when it cannot be divided so. */
export function sliceForRank(tensor: TensorEntry, split: Split, { rank, ranks }: Rank): TensorSlice {
  if (split.kind === "replicate") return sliceDimension(tensor, 0, 0, tensor.shape[0] ?? 1);
  const size = tensor.shape[split.dim];
  const units = split.units ?? size;
  if (size === undefined || units === undefined || size % units !== 0) {
    throw indivisible(tensor, `dimension ${split.dim} of [${tensor.shape}] is not made of ${units} units`);
  }
  if (units % ranks !== 0 && ranks % units !== 0) {
    throw indivisible(tensor, `${units} units cannot be divided between ${ranks} ranks`);
  }
  const perUnit = size / units;
  const unitsEach = Math.max(1, units / ranks);
  const first = units >= ranks ? rank * unitsEach : Math.floor((rank * units) / ranks);
  return sliceDimension(tensor, split.dim, first * perUnit, unitsEach * perUnit);
}

/** Elements `start` to `start + count` along dimension `dim`; everything of the others. */
export function sliceDimension(tensor: TensorEntry, dim: number, start: number, count: number): TensorSlice {
  const { name, dtype, shape, offset } = tensor;
  const size = shape[dim] ?? 1;
  if (start < 0 || count < 0 || start + count > size) {
    throw indivisible(tensor, `${start}…${start + count} lies outside dimension ${dim} of [${shape}]`);
  }
  const outer = shape.slice(0, dim).reduce((a, b) => a * b, 1);
  const inner = shape.slice(dim + 1).reduce((a, b) => a * b, 1);
  const bitsPerStep = inner * DTYPE_BITS[dtype];
  if ((bitsPerStep * start) % 8 !== 0 || (bitsPerStep * count) % 8 !== 0 || (bitsPerStep * size) % 8 !== 0) {
    throw indivisible(tensor, `a slice along dimension ${dim} would begin or end inside a byte`);
  }
  const runBytes = (bitsPerStep * count) / 8;
  const whole = count === size;
  const runs = whole ? 1 : outer;
  const pieceBytes = whole ? runBytes * outer : runBytes;
  return {
    name,
    dtype,
    shape: shape.map((n, i) => (i === dim ? count : n)),
    offset: offset + (bitsPerStep * start) / 8,
    runBytes: pieceBytes,
    strideBytes: (bitsPerStep * size) / 8,
    runs,
    length: pieceBytes * runs,
  };
}

/** What decides the split of a decoder's tensors, from its config.json. */
export type DecoderHeads = { attentionHeads: number; keyValueHeads: number };

/**
 * The usual tensor-parallel division of a Llama-shaped decoder (Megatron's): query, key, value, gate and up by rows,
 * output and down projections by columns, embeddings and head by vocabulary, norms everywhere. Experts are divided
 * like the dense layer; `expertSlice` gives them whole instead.
 */
export function decoderSplit(name: string, heads: DecoderHeads): Split {
  const part = /([a-z0-9_]+)\.(weight|bias)$/.exec(name);
  const bias = part?.[2] === "bias";
  switch (part?.[1]) {
    case "q_proj":
      return { kind: "split", dim: 0, units: heads.attentionHeads };
    case "k_proj":
    case "v_proj":
      return { kind: "split", dim: 0, units: heads.keyValueHeads };
    case "gate_proj":
    case "up_proj":
    case "w1":
    case "w3":
    case "embed_tokens":
    case "lm_head":
      return { kind: "split", dim: 0 };
    case "o_proj":
      // The bias is added once, after the ranks' sums: only whole.
      return bias ? { kind: "replicate" } : { kind: "split", dim: 1, units: heads.attentionHeads };
    case "down_proj":
    case "w2":
      return bias ? { kind: "replicate" } : { kind: "split", dim: 1 };
    default:
      return { kind: "replicate" };
  }
}

/** `…experts.7.w1.weight`: one expert's own tensor. */
const ONE_EXPERT = /(?:^|\.)experts\.(\d+)\./;
/** `…experts.gate_up_proj`: all experts in one tensor, along its first dimension. */
const ALL_EXPERTS = /(?:^|\.)experts\.[A-Za-z_]/;

/**
 * What of a routed expert's tensor an expert-parallel rank needs: its own experts' whole, nothing (null) of others. Undefined for a
 * tensor of no routed expert. Throws invalidArgument for a tensor that does not fit the number of experts.
 */
export function expertSlice(
  tensor: TensorEntry,
  experts: number,
  group: Rank,
): TensorSlice | null | undefined {
  const { first, count } = expertsOf(experts, group);
  const one = ONE_EXPERT.exec(tensor.name)?.[1];
  if (one !== undefined) {
    if (Number(one) >= experts) throw indivisible(tensor, `expert ${one} of ${experts} does not exist`);
    const own = Number(one) >= first && Number(one) < first + count;
    return own ? sliceForRank(tensor, { kind: "replicate" }, group) : null;
  }
  if (!ALL_EXPERTS.test(tensor.name)) return undefined;
  if (tensor.shape[0] !== experts) {
    throw indivisible(tensor, `its first dimension, ${tensor.shape[0]}, is not the ${experts} experts`);
  }
  return count === 0 ? null : sliceDimension(tensor, 0, first, count);
}

/** Neighbouring experts to each rank, as many as to the others; the first ranks have one more where it does not come out even. */
function expertsOf(experts: number, { rank, ranks }: Rank): { first: number; count: number } {
  const [each, more] = [Math.floor(experts / ranks), experts % ranks];
  return { first: rank * each + Math.min(rank, more), count: each + (rank < more ? 1 : 0) };
}

function indivisible(tensor: TensorEntry, why: string): PlatformError {
  return new PlatformError("invalidArgument", `tensor ${JSON.stringify(tensor.name)}: ${why}`, {
    remedy: "Use a number of ranks that divides the model's heads.",
  });
}
