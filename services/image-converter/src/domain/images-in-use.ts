// Which converted images and compile caches have to stay.
import { specificationOf } from "@pilotlight/compile-caches";
import type { BoundsSet } from "@pilotlight/contracts";

/** What `pilotlight://worker` (or nothing) stands for is a setting. */
const WORKER_IMAGE = "pilotlight://worker";

/** A reference, what it led to when it was asked for last, and when that was (epoch ms). */
export type ImageUse = { image: string; manifestDigest: string; askedAt: number };

/** The references that versions with replicas, or with the right to some, run. */
export function imagesOfVersions(bounds: Iterable<BoundsSet>, workerImage: string): Set<string> {
  const images = new Set(workerImage === "" ? [] : [workerImage]);
  for (const { versions } of bounds)
    for (const { spec } of versions)
      for (const { image } of spec?.deployments ?? [])
        images.add(image === "" || image === WORKER_IMAGE ? workerImage : image);
  return images;
}

/** Digests of images that a version runs, or that were asked for within the grace period: a rollback finds its image. */
export function digestsInUse(
  uses: readonly ImageUse[],
  ofVersions: ReadonlySet<string>,
  now: number,
  graceMs: number,
): Set<string> {
  const inUse = uses.filter(({ image, askedAt }) => ofVersions.has(image) || now - askedAt <= graceMs);
  return new Set(inUse.map(({ manifestDigest }) => manifestDigest));
}

/** What the same versions say of their compile caches. */
export function cacheSpecificationsOfVersions(bounds: Iterable<BoundsSet>): Set<string> {
  const specifications = new Set<string>();
  for (const { application, versions } of bounds)
    for (const { spec } of versions)
      for (const deployment of spec?.deployments ?? []) {
        const specification = specificationOf(application, deployment);
        if (specification !== undefined) specifications.add(specification);
      }
  return specifications;
}
