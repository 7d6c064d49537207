// What containerd's clients say of a layer that they are about to fetch (pkg/snapshotters of containerd). "cri" stands in the
// names for historical reasons: Docker, nerdctl and the transfer service set the same ones.

/** The chain ID that the snapshot is to have when the layer is unpacked: the name of the root after it. */
export const SNAPSHOT_REF_LABEL = "containerd.io/snapshot.ref";
const IMAGE_REF_LABEL = "containerd.io/snapshot/cri.image-ref";
const MANIFEST_DIGEST_LABEL = "containerd.io/snapshot/cri.manifest-digest";
const SHA256_DIGEST = /^sha256:[0-9a-f]{64}$/;

/** A layer of an image on its way. */
export type WantedLayer = {
  chainId: string;
  /** undefined: nobody says of which image. */
  manifestDigest: string | undefined;
  /** How the image is called; empty: not said. */
  reference: string;
};

/** undefined: the snapshot is no layer of an image. */
export function wantedLayerOf(labels: Readonly<Record<string, string>>): WantedLayer | undefined {
  const chainId = labels[SNAPSHOT_REF_LABEL];
  if (chainId === undefined || !SHA256_DIGEST.test(chainId)) return undefined;
  const digest = labels[MANIFEST_DIGEST_LABEL];
  const manifestDigest = digest !== undefined && SHA256_DIGEST.test(digest) ? digest : undefined;
  return { chainId, manifestDigest, reference: labels[IMAGE_REF_LABEL] ?? "" };
}
