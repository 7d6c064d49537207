// Shares a deployment's target among its versions. `rollout` bounds and the autoscaler decides, so that two controllers
// never fight over one fleet: a bounded version stays within its bounds, one without bounds follows the load.
//
// A version without bounds gets the whole target, also beside bounded ones. Bounds of two versions travel as two
// messages; if the new version's came first and its replica were taken from the old one's share, the old version would
// lose a replica only to get it back a moment later, with an accelerator more in use than n + 1 (found by simulation).
import type { VersionObservation } from "./types.ts";

/** Replicas per version, in the order of `versions`. */
export function allocate(
  target: number,
  versions: readonly Pick<VersionObservation, "version" | "bounds">[],
): { version: string; replicas: number }[] {
  // Of two unbounded ones, for the moment between two messages at the end of a rollout, the newer follows the load.
  const free = versions.findLast(({ bounds }) => bounds === null);
  let left = target - versions.reduce((sum, { bounds }) => sum + (bounds?.replicasMin ?? 0), 0);
  return versions.map((one) => {
    if (one.bounds === null) return { version: one.version, replicas: one === free ? target : 0 };
    const { replicasMin, replicasMax } = one.bounds;
    const extra = free === undefined ? Math.max(0, Math.min(left, replicasMax - replicasMin)) : 0;
    left -= extra;
    return { version: one.version, replicas: replicasMin + extra };
  });
}
