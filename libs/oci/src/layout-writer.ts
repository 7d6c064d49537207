// Writes an OCI image layout without a container engine: gzip layers, config, manifest, index. The same layers and config
// give the same bytes. One directory may hold several tags; blobs that are there already are kept.
import { createHash, randomUUID } from "node:crypto";
import { createWriteStream } from "node:fs";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import {
  type Descriptor,
  formatPlatform,
  MEDIA_TYPES,
  type Platform,
  parseManifestOrIndex,
  sha256Digest,
} from "./documents.ts";
import { type LayerSource, layerItems } from "./file-tree.ts";
import { writeTar } from "./tar-writer.ts";

export type WriteLayoutOptions = {
  /** Made if it is not there. */
  directory: string;
  tag: string;
  platform: Platform;
  /** From the bottom up. */
  layers: ReadonlyArray<readonly LayerSource[]>;
  run: {
    env?: Record<string, string>;
    entrypoint?: readonly string[];
    cmd?: readonly string[];
    /** `user[:group]`, names or numbers. */
    user?: string;
    workingDir?: string;
    labels?: Record<string, string>;
  };
  /** Default 6. Level 1 writes twice as fast and some 5 % more. */
  gzipLevel?: number;
};

export type WrittenLayout = {
  manifestDigest: string;
  /** Compressed bytes of the layers. */
  layerBytes: number;
  /** `oci:///directory:tag` */
  reference: string;
};

type WrittenLayer = { descriptor: Descriptor; diffId: string };

export async function writeOciLayout(options: WriteLayoutOptions): Promise<WrittenLayout> {
  const { directory } = options;
  await mkdir(join(directory, "blobs", "sha256"), { recursive: true });
  const layers: WrittenLayer[] = [];
  for (const sources of options.layers)
    layers.push(await writeLayer(directory, sources, options.gzipLevel ?? 6));
  const config = await writeBlob(
    directory,
    Buffer.from(JSON.stringify(configOf(options, layers))),
    MEDIA_TYPES.config,
  );
  const manifest = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.manifest,
    config,
    layers: layers.map(({ descriptor }) => descriptor),
  };
  const descriptor = await writeBlob(directory, Buffer.from(JSON.stringify(manifest)), MEDIA_TYPES.manifest);
  await writeIndex(directory, {
    ...descriptor,
    platform: options.platform,
    annotations: { "org.opencontainers.image.ref.name": options.tag },
  });
  return {
    manifestDigest: descriptor.digest,
    layerBytes: layers.reduce((sum, layer) => sum + layer.descriptor.size, 0),
    reference: `oci://${directory}:${options.tag}`,
  };
}

function configOf({ platform, run }: WriteLayoutOptions, layers: WrittenLayer[]): unknown {
  return {
    // The epoch: an image of the same files is the same image whenever it is written.
    created: "1970-01-01T00:00:00Z",
    ...platform,
    config: {
      ...(run.user !== undefined && { User: run.user }),
      Env: Object.entries(run.env ?? {}).map(([name, value]) => `${name}=${value}`),
      ...(run.entrypoint && { Entrypoint: run.entrypoint }),
      ...(run.cmd && { Cmd: run.cmd }),
      WorkingDir: run.workingDir ?? "/",
      ...(run.labels && { Labels: run.labels }),
    },
    rootfs: { type: "layers", diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(() => ({ created: "1970-01-01T00:00:00Z", created_by: "pilotlight" })),
  };
}

async function writeLayer(
  directory: string,
  sources: readonly LayerSource[],
  level: number,
): Promise<WrittenLayer> {
  const items = await layerItems(sources);
  const raw = createHash("sha256");
  const compressed = createHash("sha256");
  let size = 0;
  const partial = join(directory, `partial-${randomUUID()}`);
  try {
    await pipeline(
      Readable.from(writeTar(items), { objectMode: false, highWaterMark: 1 << 20 }),
      async function* tapRaw(source: AsyncIterable<Buffer>) {
        for await (const piece of source) {
          raw.update(piece);
          yield piece;
        }
      },
      // The header of Node's gzip has neither name nor time: nothing of this machine gets in.
      createGzip({ level, chunkSize: 256 << 10 }),
      async function* tapCompressed(source: AsyncIterable<Buffer>) {
        for await (const piece of source) {
          compressed.update(piece);
          size += piece.length;
          yield piece;
        }
      },
      createWriteStream(partial),
    );
    const digest = `sha256:${compressed.digest("hex")}`;
    await rename(partial, blobPath(directory, digest));
    return {
      descriptor: { mediaType: MEDIA_TYPES.layerGzip, digest, size },
      diffId: `sha256:${raw.digest("hex")}`,
    };
  } finally {
    await rm(partial, { force: true });
  }
}

async function writeBlob(directory: string, bytes: Buffer, mediaType: string): Promise<Descriptor> {
  const digest = sha256Digest(bytes);
  const path = blobPath(directory, digest);
  if ((await stat(path).catch(() => undefined)) === undefined) await replaceFile(path, bytes);
  return { mediaType, digest, size: bytes.length };
}

/** Adds the image to index.json; an image with the same tag and platform is replaced. */
async function writeIndex(directory: string, added: Descriptor): Promise<void> {
  const before = await readFile(join(directory, "index.json")).catch(() => undefined);
  const parsed = before === undefined ? undefined : parseManifestOrIndex(before);
  const others = parsed?.kind === "index" ? parsed.document.manifests.filter((m) => !sameSlot(m, added)) : [];
  const manifests = [...others, added].sort((a, b) => (slotOf(a) < slotOf(b) ? -1 : 1));
  await replaceFile(join(directory, "oci-layout"), Buffer.from('{"imageLayoutVersion":"1.0.0"}'));
  await replaceFile(
    join(directory, "index.json"),
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.index, manifests })),
  );
}

function slotOf(descriptor: Descriptor): string {
  const platform = descriptor.platform === undefined ? "" : formatPlatform(descriptor.platform);
  return `${descriptor.annotations?.["org.opencontainers.image.ref.name"] ?? ""} ${platform} ${descriptor.digest}`;
}

function sameSlot(a: Descriptor, b: Descriptor): boolean {
  return slotOf({ ...a, digest: "" }) === slotOf({ ...b, digest: "" });
}

function blobPath(directory: string, digest: string): string {
  return join(directory, "blobs", "sha256", digest.slice("sha256:".length));
}

async function replaceFile(path: string, bytes: Buffer): Promise<void> {
  const partial = `${path}.${randomUUID()}`;
  await writeFile(partial, bytes);
  await rename(partial, path);
}
