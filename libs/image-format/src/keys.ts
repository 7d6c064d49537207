// Where everything of the format stands in a bucket. One place for all keys, so that garbage collection and readers agree.
import { PlatformError } from "@pilotlight/errors";
import { CHUNKER_VERSION } from "./chunker.ts";

const DIGEST = /^sha256:([0-9a-f]{64})$/;

/** The hex part of a sha256 digest. Throws `invalidArgument`, for digests come from outside. */
export function digestHex(digest: string): string {
  const hex = DIGEST.exec(digest)?.[1];
  if (hex === undefined) {
    throw new PlatformError("invalidArgument", `${JSON.stringify(digest)} is not a sha256 digest`, {
      remedy: "Give sha256: and 64 hex digits; other algorithms are not supported.",
    });
  }
  return hex;
}

export const IMAGES_PREFIX = "images/";
export const PACKS_PREFIX = "packs/";
export const LAYERS_PREFIX = "layers/";

/** The image object of a converted OCI manifest. */
export const imageKey = (manifestDigest: string): string => `${IMAGES_PREFIX}${digestHex(manifestDigest)}`;

export const CHAINS_PREFIX = "chains/";

/** The entry of an image under one of its chain IDs; without an image, what all entries of the chain ID begin with. */
export const chainKey = (chainId: string, manifestDigest?: string): string =>
  `${CHAINS_PREFIX}${digestHex(chainId)}/${manifestDigest === undefined ? "" : digestHex(manifestDigest)}`;

export const PROFILES_PREFIX = "profiles/";
export const HOT_PREFIX = "hot/";

/** What starts of an image by one entry point touch first; `entry` names the entry point: 16 hex digits. */
export const profileKey = (manifestDigest: string, entry: string): string =>
  `${PROFILES_PREFIX}${digestHex(manifestDigest)}/${entry}`;

/** The same as content, in one object. */
export const hotKey = (manifestDigest: string, entry: string): string =>
  `${HOT_PREFIX}${digestHex(manifestDigest)}/${entry}`;

/** A pack, by the SHA-256 of its bytes. */
export const packKey = (sha256: Buffer): string => `${PACKS_PREFIX}${sha256.toString("hex")}`;

/** The record of a converted layer, by the digest of its uncompressed tar; cutting rules are part of the key. */
export const layerKey = (diffId: string, chunkBytes: number): string =>
  `${LAYERS_PREFIX}v${CHUNKER_VERSION}-${chunkBytes}/${digestHex(diffId)}`;
