// Images in the bucket: converted by the platform, looked into, checked and mounted here. Loaded only when it is used.
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { ImageView } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { openImagefs } from "@pilotlight/imagefs";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import type { Context } from "../context.ts";
import { bucketOf } from "../endpoints.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { formatBytes, formatDuration, formatPercent, formatProgress } from "../text/format.ts";
import { createLiveView } from "../view/live-view.ts";
import { describeImage, findImage, verifyImage } from "./stored-image.ts";

const LOOK_INTERVAL_MS = 200;

/** Which image, in which bucket. */
export type Stored = { digest: string; bucket: string | undefined };

const shown = (name: string, value: string | number): string =>
  typeof value === "number" && name.endsWith("Bytes") ? formatBytes(value) : String(value);

async function withBucket(
  context: Context,
  uri: string | undefined,
  use: (bucket: ObjectStore) => Promise<void>,
): Promise<void> {
  const bucket = openStore(bucketOf(context.endpoints, uri));
  try {
    await use(bucket);
  } finally {
    await bucket.close();
  }
}

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

/** Checks every chunk of an image. */
export const verify = (context: Context, { digest, bucket }: Stored): Promise<void> =>
  withBucket(context, bucket, (store) => verifyIn(context, store, digest));

async function verifyIn(context: Context, bucket: ObjectStore, digest: string): Promise<void> {
  const { terminal } = context;
  const image = await findImage(bucket, digest, terminal.interrupted);
  const view = createLiveView(terminal);
  const startedAt = Date.now();
  const result = await verifyImage(bucket, image, {
    signal: terminal.interrupted,
    onProgress: (bytesDone, bytesTotal) => {
      const bytesPerSecond = bytesDone / Math.max(0.001, (Date.now() - startedAt) / 1_000);
      const tenths = Math.floor((bytesDone / Math.max(1, bytesTotal)) * 10) / 10;
      view.show([
        {
          key: "verify",
          text: `checking  ${formatProgress({ bytesDone, bytesTotal, bytesPerSecond })}`,
          fact: `checking, ${formatPercent(tenths)}`,
        },
      ]);
    },
  });
  view.end();
  context.show(result, () => [
    ...result.bad.map((one) => `chunk ${one.chunk} in ${one.object}: ${one.why}`),
    `${result.chunks} chunks, ${formatBytes(result.bytes)}: ${result.bad.length === 0 ? "all as they should be" : `${result.bad.length} wrong`}`,
  ]);
  if (result.bad.length > 0)
    throw new Unsuccessful(
      `${image.manifest.manifestDigest} is damaged: delete it and convert the image again`,
    );
}

/** Mounts an image here. */
export const mount = (
  context: Context,
  { digest, bucket }: Stored,
  options: { directory: string; cache: string; method: "auto" | "fanotify" | "fuse" | "extract" },
): Promise<void> =>
  withBucket(context, bucket, async (store) => {
    const { manifest } = await findImage(store, digest);
    const imagefs = openImagefs({ cacheDir: resolve(options.cache) });
    const { root, method } = await imagefs.mount({
      bucket: store,
      manifestDigest: manifest.manifestDigest,
      mountpoint: resolve(context.terminal.cwd, options.directory),
      method: options.method,
    });
    context.show({ root, method, manifestDigest: manifest.manifestDigest }, () => [
      `${manifest.manifestDigest} is at ${root} (${method})`,
      ...(method === "extract" ? [] : [`  pilotlight image unmount ${options.directory}`]),
    ]);
  });

/** Takes a mount away. */
export async function unmount(context: Context, directory: string, cache: string): Promise<void> {
  const mountpoint = resolve(context.terminal.cwd, directory);
  await openImagefs({ cacheDir: resolve(cache) }).unmount(mountpoint);
  context.show({ mountpoint }, () => [`${mountpoint} is unmounted`]);
}

/** Shows what an image consists of. */
export const inspect = (context: Context, { digest, bucket }: Stored): Promise<void> =>
  withBucket(context, bucket, async (store) => {
    const description = describeImage(await findImage(store, digest));
    context.show(description, () =>
      Object.entries(description).map(([name, value]) => `${name.padEnd(16)} ${shown(name, value)}`),
    );
  });
