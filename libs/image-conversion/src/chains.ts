// Converted images by the chain IDs of their layers: container runtimes name the root after a layer so (OCI image specification,
// "Layer ChainID"), and some say nothing else of the image that they are pulling. An entry is an empty object whose name says
// all, so looking up and sweeping need listings only.
import { createHash } from "node:crypto";
import { chainKey, digestHex } from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import { type ImageConfigDocument, parseImageConfig } from "@pilotlight/oci";
import { Semaphore } from "./semaphore.ts";

/** Small writes side by side. */
const WRITES_AT_ONCE = 8;
/** Of many images with the same base, any will do. */
const CANDIDATES_MAX = 4;

/** Names of the roots after each of an image's layers, from the bottom up. */
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

/** Enters an image under all its chain IDs, unless it is there. */
export async function enterChains(
  bucket: ObjectStore,
  manifestDigest: string,
  ociConfig: string,
  signal: AbortSignal,
): Promise<void> {
  const keys = chainIdsOf(parseImageConfig(Buffer.from(ociConfig))).map((id) => chainKey(id, manifestDigest));
  const top = keys.pop();
  // The topmost is written last, so it stands for all of them.
  if (top === undefined || (await bucket.head(top, { signal })) !== undefined) return;
  const slots = new Semaphore(WRITES_AT_ONCE);
  await Promise.all(keys.map((key) => slots.run(() => bucket.put(key, "", { signal }))));
  await bucket.put(top, "", { signal });
}

/** Manifest digests of some converted images with this chain ID. They may be gone by now. */
export async function imagesOfChain(
  bucket: ObjectStore,
  chainId: string,
  signal: AbortSignal,
): Promise<string[]> {
  const prefix = chainKey(chainId);
  const found: string[] = [];
  for await (const { key } of bucket.list({ prefix, signal })) {
    const digest = `sha256:${key.slice(prefix.length)}`;
    digestHex(digest); // nothing else is written there
    found.push(digest);
    if (found.length === CANDIDATES_MAX) break;
  }
  return found;
}
