// The JSON documents of the OCI image spec, as far as they are read here, and Docker's equivalents. Unknown fields are
// allowed (the spec demands it); sizes and counts are bounded.
// Source: https://github.com/opencontainers/image-spec (manifest.md, image-index.md, config.md).
import { createHash } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import { DIGEST_PATTERN } from "./reference.ts";

export const MEDIA_TYPES = {
  index: "application/vnd.oci.image.index.v1+json",
  dockerIndex: "application/vnd.docker.distribution.manifest.list.v2+json",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  config: "application/vnd.oci.image.config.v1+json",
  layerTar: "application/vnd.oci.image.layer.v1.tar",
  layerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  layerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
} as const;

/** Registries bound manifests at 4 MiB; configs are of the same order. */
export const DOCUMENT_BYTES_MAX = 4 << 20;
const LAYERS_MAX = 1024;

const platformSchema = z.looseObject({
  os: z.string().max(64),
  architecture: z.string().max(64),
  variant: z.string().max(64).optional(),
});

const descriptorSchema = z.looseObject({
  mediaType: z.string().max(255).optional(),
  digest: z.string().regex(DIGEST_PATTERN),
  size: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  urls: z.array(z.string()).max(16).optional(),
  platform: platformSchema.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
});

const indexSchema = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  manifests: z.array(descriptorSchema).max(4096),
});

const manifestSchema = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(LAYERS_MAX),
});

const strings = z.array(z.string()).nullish();

const configSchema = z.looseObject({
  os: z.string(),
  architecture: z.string(),
  variant: z.string().optional(),
  config: z
    .looseObject({
      User: z.string().nullish(),
      Env: strings,
      Entrypoint: strings,
      Cmd: strings,
      WorkingDir: z.string().nullish(),
      Labels: z.record(z.string(), z.string()).nullish(),
      StopSignal: z.string().nullish(),
    })
    .nullish(),
  rootfs: z.looseObject({
    type: z.literal("layers"),
    diff_ids: z.array(z.string().regex(DIGEST_PATTERN)).max(LAYERS_MAX),
  }),
});

export type Platform = { os: string; architecture: string; variant?: string | undefined };
export type Descriptor = z.infer<typeof descriptorSchema>;
export type ImageIndexDocument = z.infer<typeof indexSchema>;
export type ImageManifestDocument = z.infer<typeof manifestSchema>;
export type ImageConfigDocument = z.infer<typeof configSchema>;

/** How a container of the image runs when nobody says otherwise. */
export type RunConfig = {
  user: string;
  env: string[];
  entrypoint: string[];
  cmd: string[];
  workingDir: string;
  stopSignal: string;
};

export type ManifestOrIndex =
  | { kind: "index"; document: ImageIndexDocument }
  | { kind: "manifest"; document: ImageManifestDocument };

/** Reads a manifest or an index; which of both is told by its content, for media types lie. Throws `corrupt` or `unsupported`. */
export function parseManifestOrIndex(bytes: Buffer): ManifestOrIndex {
  const json = parseJson(bytes, "manifest") as { schemaVersion?: unknown; manifests?: unknown };
  if (json?.schemaVersion === 1) {
    throw new PlatformError(
      "unsupported",
      "the image has a schema 1 manifest, which carries no verifiable layers",
      {
        remedy: "Push the image again with a current tool.",
      },
    );
  }
  if (json?.manifests !== undefined)
    return { kind: "index", document: check(indexSchema, json, "image index") };
  return { kind: "manifest", document: check(manifestSchema, json, "image manifest") };
}

export function parseImageConfig(bytes: Buffer): ImageConfigDocument {
  return check(configSchema, parseJson(bytes, "image config"), "image config");
}

export function runConfigOf(config: ImageConfigDocument): RunConfig {
  const run = config.config;
  return {
    user: run?.User ?? "",
    env: run?.Env ?? [],
    entrypoint: run?.Entrypoint ?? [],
    cmd: run?.Cmd ?? [],
    workingDir: run?.WorkingDir || "/",
    stopSignal: run?.StopSignal ?? "SIGTERM",
  };
}

/** `linux/amd64` or `linux/arm64/v8`. Throws `invalidArgument`. */
export function parsePlatform(text: string): Platform {
  const [os, architecture, variant, ...rest] = text.split("/");
  if (!os || !architecture || rest.length > 0) {
    throw new PlatformError("invalidArgument", `${JSON.stringify(text)} is not a platform`, {
      field: "platform",
      remedy: "Write os/architecture, e.g. linux/amd64.",
    });
  }
  return variant === undefined ? { os, architecture } : { os, architecture, variant };
}

export const formatPlatform = (platform: Platform): string =>
  [platform.os, platform.architecture, platform.variant]
    .filter((part) => part !== undefined && part !== "")
    .join("/");

/** The platform that this machine runs. */
export function hostPlatform(): Platform {
  const architecture = process.arch === "x64" ? "amd64" : process.arch;
  return { os: "linux", architecture };
}

/** Whether an image for `offered` runs where `wanted` is asked for. arm64's only variant, v8, is as good as none. */
export function platformMatches(offered: Platform, wanted: Platform): boolean {
  const variant = (platform: Platform) =>
    platform.architecture === "arm64" ? platform.variant || "v8" : platform.variant || "";
  return (
    offered.os === wanted.os &&
    offered.architecture === wanted.architecture &&
    (wanted.variant === undefined || variant(offered) === variant(wanted))
  );
}

export function sha256Digest(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Throws `corrupt` unless the bytes have the digest (and size) that was promised. */
export function checkDigest(
  bytes: Uint8Array,
  expected: { digest: string; size?: number },
  what: string,
): void {
  const actual = sha256Digest(bytes);
  if (actual !== expected.digest || (expected.size !== undefined && expected.size !== bytes.length)) {
    throw new PlatformError(
      "corrupt",
      `the ${what} has digest ${actual} and ${bytes.length} bytes, not ${expected.digest}`,
      {
        remedy: "The registry or the layout directory holds damaged content; push the image again.",
      },
    );
  }
}

function parseJson(bytes: Buffer, what: string): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new PlatformError("corrupt", `the ${what} is not JSON`, { cause, remedy: "Push the image again." });
  }
}

function check<T>(schema: z.ZodType<T>, json: unknown, what: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new PlatformError("corrupt", `not a valid ${what}: ${z.prettifyError(parsed.error)}`, {
    remedy: "Push the image again.",
  });
}
