// Which image is meant: by the digest of its manifest, by its beginning, or by a reference that a registry resolves.
import { PlatformError } from "@pilotlight/errors";
import { IMAGES_PREFIX, type ImageFile, imageKey, parseImageFile } from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import { type OpenImageOptions, openImage } from "@pilotlight/oci";

const IMAGE_BYTES_MAX = 1 << 30;
const DIGEST_BEGINNING = /^(?:sha256:)?([0-9a-f]{4,64})$/;

/**
 * The manifest digest that a text names: a digest, the first digits (four or more) of one that the bucket has, or an image
 * reference. Throws `notFound`, and `invalidArgument` where several begin so.
 */
export async function resolveImage(
  bucket: ObjectStore,
  text: string,
  options: OpenImageOptions = {},
): Promise<string> {
  const hex = DIGEST_BEGINNING.exec(text)?.[1];
  if (hex === undefined) return (await openImage(text, options)).manifestDigest;
  const found: string[] = [];
  for await (const { key } of bucket.list({
    prefix: `${IMAGES_PREFIX}${hex}`,
    ...(options.signal && { signal: options.signal }),
  }))
    found.push(`sha256:${key.slice(IMAGES_PREFIX.length)}`);
  const [digest] = found;
  if (digest === undefined) throw notConverted(text);
  if (found.length > 1)
    throw new PlatformError("invalidArgument", `${found.length} images begin with ${text}`, {
      remedy: "Write more of its digits.",
    });
  return digest;
}

/** The image object of a manifest digest, checked. Throws `notFound` and `corrupt`. */
export async function readImageFile(
  bucket: ObjectStore,
  manifestDigest: string,
  signal?: AbortSignal,
): Promise<ImageFile> {
  const key = imageKey(manifestDigest);
  if ((await bucket.head(key, signal === undefined ? {} : { signal })) === undefined)
    throw notConverted(manifestDigest);
  const { bytes } = await bucket.get(key, { bytesMax: IMAGE_BYTES_MAX, ...(signal && { signal }) });
  const file = parseImageFile(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  if (file.manifest.manifestDigest === manifestDigest) return file;
  throw new PlatformError(
    "corrupt",
    `the object of ${manifestDigest} holds the image of ${file.manifest.manifestDigest}`,
    { remedy: "Somebody copied objects by hand; delete it and convert again." },
  );
}

const notConverted = (image: string) =>
  new PlatformError("notFound", `the bucket has no converted image ${image}`, {
    remedy: "'pilotlight image convert' makes one.",
  });
