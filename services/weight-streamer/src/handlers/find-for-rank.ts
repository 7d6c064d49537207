// Where a rank's weights are: in a folder of its own where the model was cut for groups of this size when it was added; else they
// are the rank's slices of the whole.
import { RECORD_FILE, rankFolder } from "@pilotlight/models/record";
import { joinUri, type ObjectStore } from "@pilotlight/object-store";
import type { Group } from "@pilotlight/weights";

/** Experts are divided otherwise than in such a folder: then it is the whole. */
export type FindForRank = (
  source: string,
  group: Group,
  signal: AbortSignal,
) => Promise<{ source: string; group: Group }>;

const WHOLE: Group = { rank: 0, ranks: 1 };

export function createFindForRank(openStore: (uri: string) => ObjectStore): FindForRank {
  return async (source, { rank, ranks, expertParallel }, signal) => {
    if (ranks <= 1 || rank >= ranks || expertParallel) return { source, group: { rank, ranks } };
    const folder = rankFolder(rank, ranks);
    const store = openStore(source);
    try {
      // A source that cannot be asked is told of by its load.
      const own = await store.head(`${folder}/${RECORD_FILE}`, { signal }).catch(() => undefined);
      return own === undefined
        ? { source, group: { rank, ranks } }
        : { source: joinUri(source, folder), group: WHOLE };
    } finally {
      await store.close();
    }
  };
}
