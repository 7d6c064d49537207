// What one rank of a group sees of a load: its slice of every tensor, or, of a mixture of experts that is divided so, its own experts
// whole and nothing of the others. The bytes are fetched once a node and lie in shared memory; a rank maps the file and takes its
// pieces, so slicing costs the wire nothing. Pure.
import { PlatformError } from "@pilotlight/errors";
import {
  type DecoderHeads,
  decoderSplit,
  expertSlice,
  sliceForRank,
  type TensorEntry,
  type TensorSlice,
} from "@pilotlight/safetensors";
import type { TensorReady } from "./events.ts";

export type Group = {
  rank: number;
  ranks: number;
  /** The ranks divide the experts among themselves, each whole, instead of cutting every one. */
  expertParallel?: boolean;
};

const CONFIG_FILE = "config.json";
const RANKS_MAX = 1024;

/** What of a tensor a rank needs; null: nothing. */
export type RankSlice<Nothing = never> = (tensor: TensorEntry) => TensorSlice | Nothing;

/**
 * How tensors are cut for a rank of a tensor-parallel group, from the repository's config.json. Throws invalidArgument for a rank
 * outside its group and preconditionFailed for a repository that does not say how many heads it has, or that is quantised.
 */
export function rankSlice(files: ReadonlyMap<string, Uint8Array>, group: Group): RankSlice {
  checkGroup(group);
  if (group.ranks <= 1) return (tensor) => sliceForRank(tensor, { kind: "replicate" }, { rank: 0, ranks: 1 });
  const heads = headsOf(configOf(files));
  return (tensor) => sliceForRank(tensor, decoderSplit(tensor.name, heads), group);
}

/** The same with experts divided whole. Throws preconditionFailed too where config.json does not say how many there are. */
function expertRankSlice(files: ReadonlyMap<string, Uint8Array>, group: Group): RankSlice<null> {
  const dense = rankSlice(files, group);
  const config = configOf(files);
  const experts = EXPERT_FIELDS.map((field) => config[field]).find(isCount);
  if (experts === undefined) {
    throw new PlatformError(
      "preconditionFailed",
      `${CONFIG_FILE} does not say how many experts the model has`,
      {
        remedy: "Load it without expert parallelism: it may be no mixture of experts.",
      },
    );
  }
  return (tensor) => {
    const slice = expertSlice(tensor, experts, group);
    return slice === undefined ? dense(tensor) : slice;
  };
}

/** A load as a rank sees it. */
export type RankView = {
  /** Whether the rank needs anything of a tensor. Throws invalidArgument for one that cannot be cut. */
  has(tensor: TensorEntry): boolean;
  /** What the rank needs of it; undefined: nothing. */
  slice(tensor: TensorReady): TensorReady | undefined;
};

/** Throws like `rankSlice`. */
export function rankView(files: ReadonlyMap<string, Uint8Array>, group: Group): RankView {
  checkGroup(group);
  if (group.ranks <= 1) return { has: () => true, slice: (tensor) => tensor };
  const sliceOf = group.expertParallel === true ? expertRankSlice(files, group) : rankSlice(files, group);
  return {
    has: (tensor) => sliceOf(tensor) !== null,
    slice(tensor) {
      const { name, dtype, shape, offset, length } = tensor;
      const slice = sliceOf({ name, dtype, shape, offset, length });
      if (slice === null) return undefined;
      return {
        ...tensor,
        shape: slice.shape,
        offset: slice.offset,
        length: slice.length,
        runBytes: slice.runBytes,
        strideBytes: slice.strideBytes,
        runs: slice.runs,
      };
    },
  };
}

function checkGroup({ rank, ranks }: Group): void {
  if (ranks > RANKS_MAX || (ranks > 0 && rank >= ranks) || (ranks === 0 && rank > 0)) {
    throw new PlatformError("invalidArgument", `rank ${rank} of ${ranks} ranks does not exist`, {
      field: "rank",
      remedy: `Ranks count from 0; a group has at most ${RANKS_MAX}.`,
    });
  }
}

/** The decoder's part of config.json; empty where there is none. Throws preconditionFailed for a quantised model. */
function configOf(files: ReadonlyMap<string, Uint8Array>): Record<string, unknown> {
  const text = files.get(CONFIG_FILE);
  let config: Record<string, unknown> = {};
  try {
    const root = (JSON.parse(Buffer.from(text ?? []).toString("utf8")) ?? {}) as Record<string, unknown>;
    config = root;
    // Models of several modalities keep the decoder's part apart.
    if (typeof config.text_config === "object" && config.text_config !== null) {
      config = { quantization_config: root.quantization_config, ...config.text_config };
    }
  } catch {
    // Told by whoever misses a field, like a file that lacks it.
  }
  if (config.quantization_config !== undefined) {
    throw new PlatformError("preconditionFailed", "a quantised model is not cut while it is loaded", {
      remedy: "Add it with `pilotlight model add … --quantize … --ranks N`, or load it whole.",
    });
  }
  return config;
}

function headsOf(config: Record<string, unknown>): DecoderHeads {
  const attentionHeads = config.num_attention_heads;
  const keyValueHeads = config.num_key_value_heads ?? attentionHeads;
  if (!isCount(attentionHeads) || !isCount(keyValueHeads)) {
    throw new PlatformError(
      "preconditionFailed",
      `${CONFIG_FILE} does not say how many heads the model has`,
      {
        remedy: "Load it whole (one rank), or add num_attention_heads and num_key_value_heads.",
      },
    );
  }
  return { attentionHeads, keyValueHeads };
}

/** As Mixtral, Qwen and DeepSeek call it. */
const EXPERT_FIELDS = ["num_local_experts", "num_experts", "n_routed_experts"];

const isCount = (value: unknown): value is number => Number.isInteger(value) && (value as number) > 0;
