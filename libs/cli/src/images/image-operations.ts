// Images of the platform and in the bucket: converted by the platform, looked into and mounted here. Loaded only when it is used.
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { ImageView } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { openImagefs, profilesOf } from "@pilotlight/imagefs";
import { parseImageConfig, runConfigOf } from "@pilotlight/oci";
import type { Context } from "../context.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { formatBytes, formatDuration, formatPercent, formatProgress } from "../text/format.ts";
import { createLiveView } from "../view/live-view.ts";
import { findImage, type Stored, withBucket } from "./stored-image.ts";

const LOOK_INTERVAL_MS = 200;

const shown = (name: string, value: unknown): string => {
  if (typeof value === "number" && name.endsWith("Bytes")) return formatBytes(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
};

/** Has an image converted and shows how far it is. */
export async function convert(
  context: Context,
  reference: string,
  platform: string | undefined,
): Promise<void> {
  const { client, terminal } = context;
  const asked = await client.convertImage(reference, platform);
  const view = createLiveView(terminal);
  for (;;) {
    const image = (await client.images()).find(
      (one) => one.image === asked.image && one.platform === asked.platform,
    );
    if (image === undefined) throw new PlatformError("internal", `control has forgotten ${reference}`);
    if (image.state === "ready") {
      view.end();
      return context.show(image, () => [
        `${image.image} is converted: ${image.manifestDigest}`,
        `  ${formatBytes(image.unpackedBytes)} of files, ${formatBytes(image.storedBytes)} stored, ${formatBytes(image.uploadedBytes)} uploaded, ${formatDuration(image.durationMs)}`,
      ]);
    }
    if (image.state === "failed") {
      view.end();
      const remedy = image.failure?.remedy ? `\n  ${image.failure.remedy}` : "";
      throw new Unsuccessful(
        `${reference} cannot be converted: ${image.failure?.message ?? "nobody knows why"}${remedy}`,
      );
    }
    view.show([conversionLine(image)]);
    await sleep(LOOK_INTERVAL_MS, undefined, { signal: terminal.interrupted });
  }
}

function conversionLine({ image, progress }: ImageView) {
  const waiting = `${image}: waits for a converter`;
  if (progress === null) return { key: "image", text: waiting, fact: waiting };
  const tenths =
    progress.bytesTotal === 0 ? 0 : Math.floor((progress.bytesDone / progress.bytesTotal) * 10) / 10;
  return {
    key: "image",
    text: `${image}: ${formatProgress(progress)}`,
    fact: `${image}: ${formatPercent(tenths)}`,
  };
}

/** Mounts an image here. */
export const mount = (
  context: Context,
  stored: Stored,
  options: { directory: string; cache: string; method: "auto" | "fanotify" | "fuse" | "extract" },
): Promise<void> =>
  withBucket(context, stored.bucket, async (bucket) => {
    const { manifest } = await findImage(context, bucket, stored);
    const imagefs = openImagefs({ cacheDir: resolve(context.terminal.cwd, options.cache) });
    const { root, method } = await imagefs.mount({
      bucket,
      manifestDigest: manifest.manifestDigest,
      mountpoint: resolve(context.terminal.cwd, options.directory),
      method: options.method,
    });
    await imagefs.close();
    context.show({ root, method, manifestDigest: manifest.manifestDigest }, () => [
      `${manifest.manifestDigest} is at ${root} (${method})`,
      ...(method === "extract" ? [] : [`  pilotlight image unmount ${options.directory}`]),
    ]);
  });

/** Takes a mount away. */
export async function unmount(context: Context, directory: string, cache: string): Promise<void> {
  const mountpoint = resolve(context.terminal.cwd, directory);
  const imagefs = openImagefs({ cacheDir: resolve(context.terminal.cwd, cache) });
  await imagefs.unmount(mountpoint);
  await imagefs.close();
  context.show({ mountpoint }, () => [`${mountpoint} is unmounted`]);
}

/** Shows what an image consists of. */
export const inspect = (context: Context, stored: Stored): Promise<void> =>
  withBucket(context, stored.bucket, async (bucket) => {
    const { manifest, index } = await findImage(context, bucket, stored);
    const { entrypoint, cmd, env, user, workingDir } = runConfigOf(
      parseImageConfig(Buffer.from(manifest.ociConfig)),
    );
    const description = {
      manifestDigest: manifest.manifestDigest,
      imageId: manifest.imageId,
      platform: manifest.platform,
      files: manifest.sizes.files,
      contentBytes: manifest.sizes.contentBytes,
      dataBytes: manifest.sizes.dataBytes,
      storedBytes: manifest.sizes.wireBytes,
      metadataBytes: manifest.sizes.metadataBytes,
      chunks: index.blobs.reduce((sum, blob) => sum + blob.chunks.length, 0),
      packs: index.packs.length,
      command: [...entrypoint, ...cmd],
      env,
      user,
      workingDir,
      profiles: await profilesOf(bucket, manifest.manifestDigest),
    };
    context.show(description, () =>
      Object.entries(description).map(([name, value]) => `${name.padEnd(16)} ${shown(name, value)}`),
    );
  });
