// Archives that pile up under one key: compiling is not repeatable to the byte, so each node that starts without a cache at the same
// time, and each start that found a broken one, saves another archive. The newest stay: a start may be reading one of them.
import type { ObjectStore } from "@pilotlight/object-store";
import { archiveKey, archivesPrefix } from "./record.ts";

export type SpareArchivesOptions = {
  /** Archives of one key that stay, with the one that its record names. */
  archivesMax: number;
  signal?: AbortSignal;
};

/**
 * Removes the oldest archives of a key after a save. One that another node has written and not named yet may be among them when
 * more nodes save at once than archives stay: its record then leads nowhere, which is the same as none.
 */
export async function removeSpareArchives(
  bucket: ObjectStore,
  key: string,
  named: string,
  { archivesMax, ...options }: SpareArchivesOptions,
): Promise<void> {
  const archives = await Array.fromAsync(bucket.list({ prefix: archivesPrefix(key), ...options }));
  const others = archives.filter((archive) => archive.key !== archiveKey(key, named));
  others.sort((a, b) => b.modifiedAt - a.modifiedAt);
  for (const archive of others.slice(archivesMax - 1)) await bucket.delete(archive.key, options);
}
