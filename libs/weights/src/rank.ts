// What one rank of a tensor-parallel group sees of a load: its slice of every tensor. The bytes are fetched once a node and
// lie in shared memory; a rank maps the file and takes its pieces, so slicing costs the wire nothing. Pure.
import { PlatformError } from "@pilotlight/errors";
import {
  type DecoderHeads,
  decoderSplit,
  sliceForRank,
  type TensorEntry,
  type TensorSlice,
} from "@pilotlight/safetensors";
import type { TensorReady } from "./events.ts";

export type Group = { rank: number; ranks: number };

const CONFIG_FILE = "config.json";
const RANKS_MAX = 1024;

/** What of a tensor a rank needs. */
export type RankSlice = (tensor: TensorEntry) => TensorSlice;

/**
 * How tensors are cut for a rank, from the repository's config.json. Throws invalidArgument for a rank outside its group and
 * preconditionFailed for a repository that does not say how many heads it has, or that is quantised.
 */
export function rankSlice(files: ReadonlyMap<string, Uint8Array>, group: Group): RankSlice {
  checkGroup(group);
  if (group.ranks <= 1) return (tensor) => sliceForRank(tensor, { kind: "replicate" }, { rank: 0, ranks: 1 });
  const heads = headsOf(files);
  return (tensor) => sliceForRank(tensor, decoderSplit(tensor.name, heads), group);
}

/** Tensors of a load as a rank sees them. Throws like `rankSlice`. */
export function rankView(
  files: ReadonlyMap<string, Uint8Array>,
  group: Group,
): (tensor: TensorReady) => TensorReady {
  const sliceOf = rankSlice(files, group);
  if (group.ranks <= 1) return (tensor) => tensor;
  return (tensor) => {
    const { name, dtype, shape, offset, length } = tensor;
    const slice = sliceOf({ name, dtype, shape, offset, length });
    return {
      ...tensor,
      shape: slice.shape,
      offset: slice.offset,
      length: slice.length,
      runBytes: slice.runBytes,
      strideBytes: slice.strideBytes,
      runs: slice.runs,
    };
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

function headsOf(files: ReadonlyMap<string, Uint8Array>): DecoderHeads {
  const text = files.get(CONFIG_FILE);
  let config: Record<string, unknown> = {};
  try {
    const root = JSON.parse(Buffer.from(text ?? []).toString("utf8")) as Record<string, unknown>;
    config = root;
    // Models of several modalities keep the decoder's part apart.
    if (typeof config.text_config === "object" && config.text_config !== null) {
      config = { quantization_config: root.quantization_config, ...config.text_config };
    }
  } catch {
    // Told below, like a file that lacks the fields.
  }
  if (config.quantization_config !== undefined) {
    throw new PlatformError("preconditionFailed", "a quantised model is not cut while it is loaded", {
      remedy: "Add it with `pilotlight model add … --quantize … --ranks N`, or load it whole.",
    });
  }
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

const isCount = (value: unknown): value is number => Number.isInteger(value) && (value as number) > 0;
