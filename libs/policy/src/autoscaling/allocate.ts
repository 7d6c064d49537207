// Shares a deployment's target among its versions. `rollout` bounds and the autoscaler decides, so that two controllers
// never fight over one fleet: a bounded version stays within its bounds, and what is left of the target goes to the
// version that follows the load.
import type { VersionObservation } from "./types.ts";

/** Replicas per version, in the order of `versions`. */
export function allocate(
  target: number,
  versions: readonly Pick<VersionObservation, "version" | "bounds">[],
): { version: string; replicas: number }[] {
  // The first unbounded version follows the load; another one was only just created and waits for its bounds.
  const free = versions.find(({ bounds }) => bounds === null);
  let left = target - versions.reduce((sum, { bounds }) => sum + (bounds?.replicasMin ?? 0), 0);
  return versions.map((one) => {
    if (one.bounds === null) return { version: one.version, replicas: one === free ? Math.max(0, left) : 0 };
    const { replicasMin, replicasMax } = one.bounds;
    const extra = free === undefined ? Math.max(0, Math.min(left, replicasMax - replicasMin)) : 0;
    left -= extra;
    return { version: one.version, replicas: replicasMin + extra };
  });
}
