// An image as the converter reads it: documents checked against their digests, layers as verified streams. Registries and
// layout directories are two ways to the same thing.
import { PlatformError } from "@pilotlight/errors";
import {
  checkDigest,
  type Descriptor,
  DOCUMENT_BYTES_MAX,
  formatPlatform,
  hostPlatform,
  type ImageConfigDocument,
  type ImageIndexDocument,
  type ImageManifestDocument,
  MEDIA_TYPES,
  type Platform,
  parseImageConfig,
  parseManifestOrIndex,
  platformMatches,
  sha256Digest,
} from "./documents.ts";
import { checkPolicy, type ImagePolicy } from "./image-policy.ts";
import { layoutStore } from "./layout-reader.ts";
import { inPieces } from "./pieces.ts";
import { formatReference, type ImageReference, parseReference } from "./reference.ts";
import { type RegistryOptions, registryStore } from "./registry.ts";
import { verified } from "./verify.ts";

/** What both kinds of stores can do. */
export type ContentStore = {
  /** The bytes that the reference's tag (or digest) names now. Throws `notFound`. */
  manifest(reference: string, signal?: AbortSignal): Promise<Buffer>;
  /** A blob's bytes, unchecked. A piece is the caller's until the next one is asked for. */
  blob(descriptor: Descriptor, signal?: AbortSignal): AsyncIterable<Uint8Array>;
};

export type ImageLayer = {
  digest: string;
  /** Compressed bytes. */
  size: number;
  /** Digest of the uncompressed tar. */
  diffId: string;
};

export type OpenedImage = {
  /** The reference as given, in full. */
  reference: string;
  /** Digest of the image manifest for the platform: the image's name from here on. */
  manifestDigest: string;
  manifest: Buffer;
  config: Buffer;
  configDocument: ImageConfigDocument;
  /** `linux/amd64` */
  platform: string;
  /** From the bottom up. */
  layers: ImageLayer[];
  /**
   * The compressed layer, size and digest checked while it passes: the last piece comes before the verdict. A piece is the
   * caller's until the next one is asked for.
   */
  layer(layer: ImageLayer, signal?: AbortSignal): AsyncGenerator<Buffer>;
};

export type OpenImageOptions = RegistryOptions & {
  /** Default: this machine's. */
  platform?: Platform;
  /** Which images may be opened. Default: any. */
  policy?: ImagePolicy;
  signal?: AbortSignal;
};

/**
 * Resolves a reference to one image for one platform. Throws `notFound` (no such image, or none for the platform),
 * `unsupported` (foreign layers, schema 1, not an image), `corrupt`, `unauthenticated`, `permissionDenied` (by the registry, or
 * by the policy), `unavailable`.
 */
export async function openImage(
  reference: string | ImageReference,
  options: OpenImageOptions = {},
): Promise<OpenedImage> {
  const parsed = typeof reference === "string" ? parseReference(reference) : reference;
  const store = parsed.kind === "layout" ? layoutStore(parsed) : registryStore(parsed, options);
  const name = formatReference(parsed);
  const platform = options.platform ?? hostPlatform();
  const { top, bytes } = await resolveManifest(store, parsed, platform, options.signal);
  await checkPolicy(options.policy ?? { kind: "any" }, {
    name,
    namedDigest: parsed.digest,
    digests: [sha256Digest(top), sha256Digest(bytes)],
    store,
    signal: options.signal,
  });
  const manifest = parseManifestOrIndex(bytes);
  if (manifest.kind === "index")
    throw new PlatformError("unsupported", `${name}: an image index inside an image index`);
  const config = await readBlob(store, manifest.document.config, "image config", options.signal);
  const configDocument = parseImageConfig(config);
  if (!platformMatches(configDocument, platform)) throw otherPlatform(name, platform, [configDocument]);
  return {
    reference: name,
    manifestDigest: sha256Digest(bytes),
    manifest: bytes,
    config,
    configDocument,
    platform: formatPlatform(configDocument),
    layers: layersOf(manifest.document, configDocument, name),
    layer: (layer, signal) =>
      verified(
        inPieces(store.blob({ digest: layer.digest, size: layer.size }, signal)),
        layer,
        `layer ${layer.digest}`,
      ),
  };
}

/** What the reference names, and the manifest for the platform: the same where it names no index. */
async function resolveManifest(
  store: ContentStore,
  reference: ImageReference,
  platform: Platform,
  signal: AbortSignal | undefined,
): Promise<{ top: Buffer; bytes: Buffer }> {
  const wanted = reference.digest ?? reference.tag ?? "";
  const top = await store.manifest(wanted, signal);
  if (reference.digest !== undefined) checkDigest(top, { digest: reference.digest }, "manifest");
  const document = parseManifestOrIndex(top);
  if (document.kind === "manifest") return { top, bytes: top };
  const chosen = choose(document.document, platform, formatReference(reference));
  const bytes = await store.manifest(chosen.digest, signal);
  checkDigest(bytes, chosen, "manifest");
  return { top, bytes };
}

/** The first manifest for the platform wins, as in other runtimes; attestations say `unknown/unknown` and never match. */
function choose(index: ImageIndexDocument, platform: Platform, name: string): Descriptor {
  const candidates = index.manifests.filter(
    ({ mediaType }) => mediaType === undefined || isManifest(mediaType),
  );
  const match = candidates.find((m) => m.platform !== undefined && platformMatches(m.platform, platform));
  const single = candidates.length === 1 && candidates[0]?.platform === undefined ? candidates[0] : undefined;
  const chosen = match ?? single;
  if (chosen === undefined)
    throw otherPlatform(
      name,
      platform,
      candidates.flatMap((m) => m.platform ?? []),
    );
  return chosen;
}

function isManifest(mediaType: string): boolean {
  return mediaType === MEDIA_TYPES.manifest || mediaType === MEDIA_TYPES.dockerManifest;
}

function layersOf(manifest: ImageManifestDocument, config: ImageConfigDocument, name: string): ImageLayer[] {
  const diffIds = config.rootfs.diff_ids;
  if (diffIds.length !== manifest.layers.length) {
    throw new PlatformError(
      "corrupt",
      `${name}: ${manifest.layers.length} layers, but ${diffIds.length} diff IDs in its config`,
      {
        remedy: "Push the image again.",
      },
    );
  }
  return manifest.layers.map((layer, i) => {
    const foreign = /foreign|nondistributable/.test(layer.mediaType ?? "") || (layer.urls?.length ?? 0) > 0;
    if (foreign) {
      throw new PlatformError(
        "unsupported",
        `${name}: layer ${layer.digest} is foreign (it lies outside the registry)`,
        {
          remedy: "Push the image with its layers: foreign layers are not fetched from third parties.",
        },
      );
    }
    return { digest: layer.digest, size: layer.size, diffId: diffIds[i] as string };
  });
}

async function readBlob(
  store: ContentStore,
  descriptor: Descriptor,
  what: string,
  signal?: AbortSignal,
): Promise<Buffer> {
  if (descriptor.size > DOCUMENT_BYTES_MAX) {
    throw new PlatformError(
      "resourceExhausted",
      `the ${what} has ${descriptor.size} bytes, the limit is ${DOCUMENT_BYTES_MAX}`,
    );
  }
  const pieces: Buffer[] = [];
  for await (const piece of verified(store.blob(descriptor, signal), descriptor, `the ${what}`))
    pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

function otherPlatform(name: string, wanted: Platform, offered: Platform[]): PlatformError {
  const list = [...new Set(offered.map(formatPlatform))].join(", ") || "no platform";
  return new PlatformError(
    "notFound",
    `${name} has no image for ${formatPlatform(wanted)}; it offers ${list}`,
    {
      field: "platform",
      remedy: "Build the image for this platform, or ask for one that it offers.",
    },
  );
}
