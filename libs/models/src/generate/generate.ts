// Makes complete repositories of any architecture and size, the same bytes for the same options: for unit tests and
// load tests. The weights are streamed, never held.
import { PlatformError } from "@pilotlight/errors";
import {
  formatIndex,
  INDEX_FILE,
  layoutFile,
  SINGLE_FILE,
  shardName,
  tensorBytes,
} from "@pilotlight/safetensors";
import { jsonFile, type RepositoryFile, textFile } from "../repository-file.ts";
import { modelConfig, tokenizerFiles, VOCABULARY_MIN } from "./config.ts";
import { type Architecture, checkShape, PRESETS, type Preset, type Shape } from "./shapes.ts";
import { type ModelTensor, modelTensors } from "./tensors.ts";
import { type FloatType, ValueMaker } from "./values.ts";

/** Changes when the same options would give other bytes. */
export const GENERATE_RECIPE = "generated-1";

export type GenerateOptions = {
  architecture: Architecture;
  preset: Preset;
  /** Any integer; equal options and seed give equal bytes. */
  seed: number;
  /** Changes of the preset: fewer layers, for instance. */
  shape?: Partial<Shape>;
  /** Weights are cut into files of at most about this size. Default: one file. */
  shardBytesMax?: number;
};

/** The repository's files. Throws invalidArgument for a shape that cannot be built. */
export function generateModel(options: GenerateOptions): RepositoryFile[] {
  const { architecture, preset, seed } = options;
  const shape: Shape = { ...PRESETS[preset], ...options.shape };
  if (architecture === "mixtral" && shape.experts === 0) shape.experts = 4;
  checkShape(architecture, shape);
  if (shape.vocabulary < VOCABULARY_MIN) {
    throw new PlatformError("invalidArgument", `generated model: vocabulary is below ${VOCABULARY_MIN}`, {
      field: "vocabulary",
    });
  }
  const type: FloatType = architecture === "bert" ? "F32" : "BF16";
  const shards = cutIntoShards(modelTensors(architecture, shape), type, options.shardBytesMax);
  return [
    jsonFile("config.json", modelConfig(architecture, shape)),
    ...Object.entries(tokenizerFiles(architecture, shape)).map(([name, content]) => jsonFile(name, content)),
    ...weightFiles(shards, type, seed),
  ];
}

function cutIntoShards(
  tensors: ModelTensor[],
  type: FloatType,
  bytesMax = Number.POSITIVE_INFINITY,
): ModelTensor[][] {
  const shards: ModelTensor[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const tensor of tensors) {
    const size = tensorBytes(type, tensor.shape);
    if (bytes + size > bytesMax || shards.length === 0) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(tensor);
    bytes += size;
  }
  return shards;
}

function weightFiles(shards: ModelTensor[][], type: FloatType, seed: number): RepositoryFile[] {
  const files = shards.map((tensors, i) => {
    const layout = layoutFile(
      tensors.map(({ name, shape }) => ({ name, dtype: type, shape })),
      { format: "pt" },
    );
    const name = shards.length === 1 ? SINGLE_FILE : shardName(i + 1, shards.length);
    const open = async function* (): AsyncGenerator<Uint8Array> {
      const values = new ValueMaker(seed, type);
      yield layout.head;
      for (const tensor of tensors) yield* values.pieces(tensor);
    };
    return { name, bytes: layout.fileBytes, open, tensors: layout.tensors };
  });
  const index = formatIndex(new Map(files.map(({ name, tensors }) => [name, tensors])));
  return [
    ...files.map(({ name, bytes, open }) => ({ name, bytes, open })),
    ...(files.length > 1 ? [textFile(INDEX_FILE, index)] : []),
  ];
}
