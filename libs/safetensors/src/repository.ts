// A model repository's weights: one safetensors file, or several with an index that says which tensor is where
// (Hugging Face's `model.safetensors.index.json`).
import { PlatformError } from "@pilotlight/errors";
import type { SafetensorsHeader, TensorEntry } from "./header.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/** Where a repository's weights are: read `index` first where there is one. */
export type WeightFiles = { kind: "single"; file: string } | { kind: "sharded"; index: string };

/** Chooses from a repository's file names. Throws notFound when it has no safetensors weights. */
export function findWeightFiles(names: Iterable<string>): WeightFiles {
  const weights = [...names].filter(
    (name) => !name.includes("/") && /\.safetensors(\.index\.json)?$/.test(name),
  );
  if (weights.includes(INDEX_FILE)) return { kind: "sharded", index: INDEX_FILE };
  if (weights.includes(SINGLE_FILE)) return { kind: "single", file: SINGLE_FILE };
  const [only, ...others] = weights;
  if (only === undefined) {
    throw new PlatformError("notFound", "no safetensors weights here", {
      remedy: `A repository has ${SINGLE_FILE}, or ${INDEX_FILE} and its shards. Other formats: pilotlight model add.`,
    });
  }
  if (others.length > 0) {
    throw new PlatformError(
      "invalidArgument",
      `several safetensors files and no ${INDEX_FILE}: ${weights.join(", ")}`,
      {
        remedy: `Name the file to load, or add ${INDEX_FILE}.`,
      },
    );
  }
  return only.endsWith(".json") ? { kind: "sharded", index: only } : { kind: "single", file: only };
}

export type ShardIndex = {
  /** Tensor name → file name. */
  files: Map<string, string>;
  /** The shards, each once, in the order of their names. */
  shards: string[];
};

/** Reads an index file. File names must be plain names beside the index. Throws `corrupt`. */
export function parseIndex(text: string): ShardIndex {
  let weightMap: unknown;
  try {
    weightMap = (JSON.parse(text) as { weight_map?: unknown } | null)?.weight_map;
  } catch (cause) {
    throw new PlatformError("corrupt", "the shard index is not JSON", { cause });
  }
  if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap)) {
    throw new PlatformError("corrupt", "the shard index has no weight_map");
  }
  const files = new Map<string, string>(Object.entries(weightMap));
  for (const [name, file] of files) {
    if (typeof file !== "string" || !/^[^/\\\0]+\.safetensors$/.test(file)) {
      throw new PlatformError(
        "corrupt",
        `the shard index puts ${JSON.stringify(name)} into an unusable file name`,
      );
    }
  }
  return { files, shards: [...new Set(files.values())].sort() };
}

/**
 * Checks the shards against their index: each tensor is where the index says and nowhere else. A tensor that the
 * index does not name would silently be lost, so that is `corrupt` too.
 */
export function checkShards(index: ShardIndex, headers: ReadonlyMap<string, SafetensorsHeader>): void {
  const found = new Set<string>();
  for (const [file, { tensors }] of headers) {
    for (const { name } of tensors) {
      const expected = index.files.get(name);
      if (expected !== file) {
        const where = expected === undefined ? "does not name it" : `says ${expected}`;
        throw new PlatformError(
          "corrupt",
          `${file} holds ${JSON.stringify(name)}, but the shard index ${where}`,
        );
      }
      found.add(name);
    }
  }
  for (const [name, file] of index.files) {
    if (!found.has(name)) {
      throw new PlatformError(
        "corrupt",
        `the shard index says that ${file} holds ${JSON.stringify(name)}, it does not`,
      );
    }
  }
}

/** The text of an index for the given shards. */
export function formatIndex(
  shards: ReadonlyMap<string, readonly Pick<TensorEntry, "name" | "length">[]>,
): string {
  const weightMap: Record<string, string> = Object.create(null);
  let totalSize = 0;
  for (const [file, tensors] of shards) {
    for (const { name, length } of tensors) {
      weightMap[name] = file;
      totalSize += length;
    }
  }
  return `${JSON.stringify({ metadata: { total_size: totalSize }, weight_map: weightMap }, null, 2)}\n`;
}

/** `model-00002-of-00005.safetensors`; `index` counts from 1. */
export function shardName(index: number, count: number): string {
  const five = (n: number): string => String(n).padStart(5, "0");
  return `model-${five(index)}-of-${five(count)}.safetensors`;
}
