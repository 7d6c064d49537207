// Image objects as the bucket holds them.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type ImageManifest, imageKey, parseImageManifest } from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";

/** Enough for the header and most manifests. */
const FIRST_BYTES = 256 << 10;

/** The manifest of a converted image, or undefined when there is none. Throws `corrupt` or `unsupported`. */
export async function readImageManifest(
  bucket: ObjectStore,
  manifestDigest: string,
  signal?: AbortSignal,
): Promise<ImageManifest | undefined> {
  const key = imageKey(manifestDigest);
  try {
    const first = await bucket.get(key, {
      range: { offset: 0, length: FIRST_BYTES },
      ...(signal && { signal }),
    });
    const head = Buffer.from(first.bytes);
    const needed = head.length < 64 ? 0 : 64 + head.readUInt32LE(12);
    if (needed <= head.length || head.length === first.info.size)
      return checked(parseImageManifest(head), manifestDigest);
    const whole = await bucket.get(key, {
      range: { offset: 0, length: needed },
      ifMatch: first.info.etag,
      ...(signal && { signal }),
    });
    return checked(parseImageManifest(Buffer.from(whole.bytes)), manifestDigest);
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return undefined;
    throw error;
  }
}

function checked(manifest: ImageManifest, manifestDigest: string): ImageManifest {
  if (manifest.manifestDigest === manifestDigest) return manifest;
  throw new PlatformError(
    "corrupt",
    `the object of ${manifestDigest} holds the image of ${manifest.manifestDigest}`,
    {
      remedy: "Somebody copied objects by hand; delete it and convert again.",
    },
  );
}
