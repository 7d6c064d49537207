// What containerd's clients say of a layer that they are about to fetch (pkg/snapshotters of containerd). "cri" stands in the
// names for historical reasons: Docker, nerdctl and the transfer service set the same ones.

import { createHash } from "node:crypto";
import type { ImageConfigDocument } from "@pilotlight/oci";

/** The chain ID that the snapshot is to have when the layer is unpacked: the name of the root after it. */
export const SNAPSHOT_REF_LABEL = "containerd.io/snapshot.ref";
const IMAGE_REF_LABEL = "containerd.io/snapshot/cri.image-ref";
const MANIFEST_DIGEST_LABEL = "containerd.io/snapshot/cri.manifest-digest";
const SHA256_DIGEST = /^sha256:[0-9a-f]{64}$/;

/** A layer of an image on its way. */
export type WantedLayer = {
  chainId: string;
  manifestDigest: string;
  /** How the image is called; empty: not said. */
  reference: string;
};

/** undefined: the snapshot is no layer of an image, or nobody says of which. */
export function wantedLayerOf(labels: Readonly<Record<string, string>>): WantedLayer | undefined {
  const chainId = labels[SNAPSHOT_REF_LABEL];
  const manifestDigest = labels[MANIFEST_DIGEST_LABEL];
  if (chainId === undefined || manifestDigest === undefined || !SHA256_DIGEST.test(manifestDigest))
    return undefined;
  return { chainId, manifestDigest, reference: labels[IMAGE_REF_LABEL] ?? "" };
}

/** Names of the roots after each of an image's layers, from the bottom up (OCI image specification, "Layer ChainID"). */
export function chainIdsOf(config: ImageConfigDocument): string[] {
  const chainIds: string[] = [];
  for (const diffId of config.rootfs.diff_ids) {
    const below = chainIds.at(-1);
    chainIds.push(
      below === undefined
        ? diffId
        : `sha256:${createHash("sha256").update(`${below} ${diffId}`).digest("hex")}`,
    );
  }
  return chainIds;
}
