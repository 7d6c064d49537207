// The published comparison at one tenth of its bytes and times: the node and the models.
import { NODE_PROFILES } from "../image/node.ts";

/** 10 Gbit/s, a volume of 125 MB/s and 3,000 operations a second. */
export const NODE = NODE_PROFILES.eks;
/** Published: 60 to 90 s from the order to a node that takes work. */
export const NODE_BOOT_MS = 7_500;
/** Of the object store and of the registry, whose layers lie in one. */
export const FIRST_BYTE_MS = 10;

/** Llama shapes of the real size with fewer layers and, to make up the bytes, a larger vocabulary. */
export const MODELS = {
  full: {
    /** 1.4 GB. */
    "7b": "generated://llama/7b?layers=2&vocabulary=36000",
    /** 3.5 GB in shards. */
    "70b": "generated://llama/70b?layers=1&vocabulary=54600&shardMB=900",
    /** 14 GB in shards. */
    "70b-full": "generated://llama/70b?layers=7&vocabulary=61600&shardMB=1100",
  },
  smoke: {
    "7b": "generated://llama/tiny?layers=3",
    "70b": "generated://llama/tiny?layers=6&heads=4&keyValueHeads=2&shardMB=1",
    "70b-full": "generated://llama/tiny?layers=12&heads=4&keyValueHeads=2&shardMB=1",
  },
};
export type ModelName = keyof typeof MODELS.full;

const RANKS: Readonly<Record<ModelName, number>> = { "7b": 1, "70b": 4, "70b-full": 4 };

/** Of the tensor-parallel group that loads a model, on both sides: the published runs have the 70B over four devices. */
export const ranksOf = (model: string): number => RANKS[model as ModelName] ?? 1;
