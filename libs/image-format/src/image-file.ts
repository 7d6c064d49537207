// The image object: all that a node must have before it can mount, in one object that is read with one request: a fixed
// header, the manifest (JSON), the compressed index, and the chunks of the EROFS metadata (pack 0).
import { createHash } from "node:crypto";
import { constants as zlib, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import { encodeIndex, type ImageIndex, imageIdentity, parseIndex } from "./image-index.ts";

export const IMAGE_VERSION = 1;
export const IMAGE_MEDIA_TYPE = "application/vnd.pilotlight.image.v1";
const MAGIC = Buffer.from("PLIMAGE\0", "latin1");
const HEADER_BYTES = 64;
/** Bounds for a reader: a manifest holds an OCI manifest and config (registries bound each at 4 MiB), an index 64 B a chunk. */
const MANIFEST_BYTES_MAX = 32 << 20;
const INDEX_BYTES_MAX = 256 << 20;

const hex64 = z.string().regex(/^[0-9a-f]{64}$/);
const size = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const imageManifestSchema = z.strictObject({
  formatVersion: z.literal(IMAGE_VERSION),
  /** See imageIdentity(). */
  imageId: hex64,
  /** Digest of the OCI image manifest that was converted. */
  manifestDigest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  /** `os/architecture[/variant]` */
  platform: z.string().max(128),
  /** The original documents, byte for byte (they are UTF-8 JSON), so that their digests can be checked. */
  ociManifest: z.string(),
  ociConfig: z.string(),
  index: z.strictObject({ offset: size, length: size, rawLength: size, sha256: hex64 }),
  /** Where pack 0 lies in this object. */
  metadata: z.strictObject({ offset: size, length: size }),
  sizes: z.strictObject({
    /** Content of all files of the merged tree, hard links once. */
    contentBytes: size,
    files: size,
    /** The data blob, and what its distinct chunks take in packs. */
    dataBytes: size,
    wireBytes: size,
    metadataBytes: size,
  }),
});

export type ImageManifest = z.infer<typeof imageManifestSchema>;

export type ImageFile = { manifest: ImageManifest; index: ImageIndex; metadataPack: Buffer };

export type ImageParts = {
  manifestDigest: string;
  platform: string;
  ociManifest: string;
  ociConfig: string;
  index: ImageIndex;
  metadataPack: Buffer;
  sizes: ImageManifest["sizes"];
};

/** Assembles the image object. The same parts give the same bytes. */
export function encodeImageFile(parts: ImageParts): { bytes: Buffer; manifest: ImageManifest } {
  const rawIndex = encodeIndex(parts.index);
  const index = zstdCompressSync(rawIndex, { params: { [zlib.ZSTD_c_compressionLevel]: 3 } });
  const build = (manifestBytes: number): ImageManifest => ({
    formatVersion: IMAGE_VERSION,
    imageId: imageIdentity(parts.manifestDigest, parts.index),
    manifestDigest: parts.manifestDigest,
    platform: parts.platform,
    ociManifest: parts.ociManifest,
    ociConfig: parts.ociConfig,
    index: {
      offset: HEADER_BYTES + manifestBytes,
      length: index.length,
      rawLength: rawIndex.length,
      sha256: createHash("sha256").update(rawIndex).digest("hex"),
    },
    metadata: { offset: HEADER_BYTES + manifestBytes + index.length, length: parts.metadataPack.length },
    sizes: parts.sizes,
  });
  // Offsets are part of the manifest and depend on its length: pad it with spaces to a multiple of 4 KiB.
  const draft = Buffer.byteLength(JSON.stringify(build(0)));
  const manifestBytes = Math.ceil((draft + 64) / 4096) * 4096 - HEADER_BYTES;
  const manifest = build(manifestBytes);
  const json = Buffer.from(JSON.stringify(manifest), "utf8");
  const padded = Buffer.concat([json, Buffer.alloc(manifestBytes - json.length, " ")]);
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(IMAGE_VERSION, 8);
  header.writeUInt32LE(manifestBytes, 12);
  createHash("sha256").update(padded).digest().copy(header, 16);
  return { bytes: Buffer.concat([header, padded, index, parts.metadataPack]), manifest };
}

/** Reads and checks an image object: versions, checksums, identity. Throws `corrupt` or `unsupported`. */
export function parseImageFile(bytes: Buffer): ImageFile {
  const manifest = parseImageManifest(bytes);
  const { index: at, metadata } = manifest;
  if (at.rawLength > INDEX_BYTES_MAX) throw corrupt(`its index of ${at.rawLength} bytes is too large`);
  const rawIndex = inflate(slice(bytes, at), at.rawLength);
  if (createHash("sha256").update(rawIndex).digest("hex") !== at.sha256)
    throw corrupt("its index has another checksum");
  const index = parseIndex(rawIndex);
  const metadataPack = slice(bytes, metadata);
  if (index.packs[0]?.size !== metadataPack.length)
    throw corrupt("its metadata section has another length than the index says");
  if (imageIdentity(manifest.manifestDigest, index) !== manifest.imageId)
    throw corrupt("its identity is not that of its chunks");
  return { manifest, index, metadataPack };
}

/** Reads only the manifest; `bytes` may be the object's first part. */
export function parseImageManifest(bytes: Buffer): ImageManifest {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, 8).equals(MAGIC))
    throw corrupt("it does not begin as one");
  const version = bytes.readUInt32LE(8);
  if (version !== IMAGE_VERSION) {
    throw new PlatformError(
      "unsupported",
      `the image has format version ${version}; this reader knows ${IMAGE_VERSION}`,
      {
        remedy: "Update this node, or convert the image again with the converter of this release.",
      },
    );
  }
  const length = bytes.readUInt32LE(12);
  if (length > MANIFEST_BYTES_MAX) throw corrupt(`its manifest of ${length} bytes is too large`);
  const json = slice(bytes, { offset: HEADER_BYTES, length });
  if (!createHash("sha256").update(json).digest().equals(bytes.subarray(16, 48)))
    throw corrupt("its manifest has another checksum");
  const parsed = imageManifestSchema.safeParse(parseJson(json.toString("utf8")));
  if (!parsed.success) throw corrupt(z.prettifyError(parsed.error));
  const manifest = parsed.data;
  if (
    `sha256:${createHash("sha256").update(manifest.ociManifest).digest("hex")}` !== manifest.manifestDigest
  ) {
    throw corrupt("its OCI manifest has another digest");
  }
  const config = (parseJson(manifest.ociManifest) as { config?: { digest?: unknown } } | null)?.config
    ?.digest;
  if (config !== `sha256:${createHash("sha256").update(manifest.ociConfig).digest("hex")}`) {
    throw corrupt("its OCI config has another digest");
  }
  return manifest;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw corrupt(`its manifest is not JSON (${(error as Error).message})`);
  }
}

function inflate(bytes: Buffer, rawLength: number): Buffer {
  try {
    return zstdDecompressSync(bytes, { maxOutputLength: Math.max(rawLength, 1) });
  } catch (cause) {
    throw corrupt("its index cannot be decompressed", cause);
  }
}

function slice(bytes: Buffer, range: { offset: number; length: number }): Buffer {
  if (range.offset + range.length > bytes.length) throw corrupt("it is shorter than it says");
  return bytes.subarray(range.offset, range.offset + range.length);
}

function corrupt(why: string, cause?: unknown): PlatformError {
  return new PlatformError("corrupt", `not a valid image: ${why}`, {
    remedy: "Convert the image again; if it happens again, the bucket returns wrong bytes.",
    cause,
  });
}
