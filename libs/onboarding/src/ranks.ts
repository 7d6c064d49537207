// A repository per rank of a tensor-parallel group: each rank's slices of every tensor, contiguous, under the names that they
// have in the whole. Cut once, here, so that a rank reads what it needs and nothing is gathered at start.
import { PlatformError } from "@pilotlight/errors";
import { rankSlice } from "@pilotlight/weights/rank";
import type { PlannedTensor } from "./planned-tensor.ts";
import type { SourceTensor } from "./source-tensors.ts";

const RANKS_MAX = 64;

/** Throws invalidArgument unless it is a whole number that makes sense. */
export function checkRanks(ranks: number): void {
  if (Number.isInteger(ranks) && ranks >= 1 && ranks <= RANKS_MAX) return;
  throw new PlatformError("invalidArgument", `${ranks} ranks cannot be`, {
    field: "ranks",
    remedy: `Choose 1 to ${RANKS_MAX}.`,
  });
}

/** The tensors of one rank; those of a group of one are whole. `files`: the repository's small files. */
export function tensorsOfRank(
  tensors: readonly SourceTensor[],
  files: ReadonlyMap<string, Uint8Array>,
  group: { rank: number; ranks: number },
): PlannedTensor[] {
  const sliceOf = rankSlice(files, group);
  return tensors.map(({ entry, read }) => {
    const slice = sliceOf(entry);
    return { name: entry.name, dtype: entry.dtype, shape: slice.shape, open: () => read(slice) };
  });
}
