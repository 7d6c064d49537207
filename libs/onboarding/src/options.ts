// What can be asked of a model when it is added.
import { PlatformError } from "@pilotlight/errors";
import type { Scheme } from "./quantise/scheme.ts";
import { checkRanks } from "./ranks.ts";

export type Transformation = {
  /** Null: the weights stay as they are. */
  scheme: Scheme | null;
  /** Size of a file of weights at most. */
  shardBytesMax: number;
  /** More than one: a folder per rank. */
  ranks: number;
  /** Run the model before and after, for the quality record of a quantised one. */
  judge: boolean;
};

/** Changes when the same source would give other bytes. */
const RECIPE = "transform-2";

/** Throws invalidArgument. */
export function checkTransformation({
  shardBytesMax,
  ranks,
}: Pick<Transformation, "shardBytesMax" | "ranks">): void {
  if (!(shardBytesMax >= 1)) {
    throw new PlatformError("invalidArgument", "a shard has at least one byte", { field: "shardBytesMax" });
  }
  checkRanks(ranks);
}

/** `transform-2 int4-g128 shards-5000000000 ranks-2` */
export function recipeOf({ scheme, shardBytesMax, ranks }: Transformation): string {
  const group = scheme?.groupSize === undefined || scheme.groupSize === null ? "" : `-g${scheme.groupSize}`;
  return [
    RECIPE,
    ...(scheme === null ? [] : [`${scheme.name}${group}`]),
    `shards-${shardBytesMax}`,
    ...(ranks === 1 ? [] : [`ranks-${ranks}`]),
  ].join(" ");
}
