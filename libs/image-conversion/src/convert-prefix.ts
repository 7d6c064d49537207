// The root after the first layers of a converted image, as an image of its own: for a container runtime that puts a layer of
// another image on top of them. It costs next to nothing, for the layers' records and chunks are in the bucket already.
import { createHash } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import type { ImageManifest } from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import {
  type OpenedImage,
  openImage,
  parseImageConfig,
  parsePlatform,
  type RegistryOptions,
  withDigest,
} from "@pilotlight/oci";
import { convertOpened } from "./convert.ts";
import { readImageManifest } from "./read-image.ts";

export type PrefixRequest = {
  bucket: ObjectStore;
  /** The converted image. */
  manifestDigest: string;
  /** How many of its layers, from the bottom up. */
  layers: number;
  /** Where layers are read that the bucket has lost; empty: nowhere. */
  reference: string;
  registry: RegistryOptions;
  signal: AbortSignal;
};

/**
 * Makes the prefix mountable; gives the manifest digest to mount it by, the same for every image that begins with these
 * layers. Throws `notFound` (no such image, or a layer is gone and nobody says where it was), and what bucket and registry
 * throw.
 */
export async function convertPrefix(request: PrefixRequest): Promise<string> {
  const { bucket, manifestDigest, layers, signal } = request;
  const manifest = await readImageManifest(bucket, manifestDigest, signal);
  if (manifest === undefined) throw gone(manifestDigest, "is not in the bucket any more");
  const prefix = prefixOf(manifest, layers, () => openWhole(request, manifest));
  await convertOpened(prefix, bucket, signal);
  return prefix.manifestDigest;
}

function prefixOf(whole: ImageManifest, layers: number, open: () => Promise<OpenedImage>): OpenedImage {
  const document = JSON.parse(whole.ociManifest) as { layers: { digest: string; size: number }[] };
  const { architecture, os, variant, rootfs } = parseImageConfig(Buffer.from(whole.ociConfig));
  const diffIds = rootfs.diff_ids.slice(0, layers);
  const kept = document.layers.slice(0, layers);
  const config = Buffer.from(
    JSON.stringify({ architecture, os, variant, rootfs: { type: "layers", diff_ids: diffIds } }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: {
        mediaType: "application/vnd.oci.image.config.v1+json",
        digest: sha256(config),
        size: config.length,
      },
      layers: kept,
    }),
  );
  let opened: Promise<OpenedImage> | undefined;
  return {
    reference: "",
    manifestDigest: sha256(manifest),
    manifest,
    config,
    configDocument: parseImageConfig(config),
    platform: whole.platform,
    layers: kept.map(({ digest, size }, i) => ({ digest, size, diffId: diffIds[i] as string })),
    async *layer(layer, signal) {
      opened ??= open();
      yield* (await opened).layer(layer, signal);
    },
  };
}

function openWhole({ reference, registry, signal }: PrefixRequest, manifest: ImageManifest) {
  const { manifestDigest, platform } = manifest;
  if (reference === "") throw gone(manifestDigest, "has lost layers in the bucket");
  return openImage(withDigest(reference, manifestDigest), {
    ...registry,
    platform: parsePlatform(platform),
    signal,
  });
}

const gone = (manifestDigest: string, what: string) =>
  new PlatformError("notFound", `the converted image ${manifestDigest} ${what}`, {
    remedy: "Convert it again, or remove the image from the container runtime and pull it anew.",
  });

const sha256 = (bytes: Buffer): string => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
