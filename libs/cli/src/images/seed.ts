// `image seed`: brings a whole image into a node's cache without starting anything, so that a node made from this disk (a node
// image, a snapshot, a volume that a DaemonSet fills) starts containers of it without a download.
import { mkdtemp, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError } from "@pilotlight/errors";
import { type Imagefs, openImagefs } from "@pilotlight/imagefs";
import type { Context } from "../context.ts";
import { formatBytes, formatPercent } from "../text/format.ts";
import { createLiveView, type ViewLine } from "../view/live-view.ts";
import { findImage, type Stored, withBucket } from "./stored-image.ts";

const LOOK_INTERVAL_MS = 200;
/** Nothing new for this long: the bucket does not deliver. */
const STALL_TIMEOUT_MS = 60_000;

type Progress = { presentBytes: number; dataBytes: number };

export const seed = (context: Context, stored: Stored, cache: string): Promise<void> =>
  withBucket(context, stored.bucket, async (bucket) => {
    const { manifest } = await findImage(context, bucket, stored);
    const { manifestDigest } = manifest;
    const cacheDir = resolve(context.terminal.cwd, cache);
    const imagefs = openImagefs({ cacheDir });
    // A cache that mounts are served from stays in service; otherwise it has to end cleanly, or no later boot trusts it.
    const isServed = (await imagefs.stats()) !== undefined;
    const view = createLiveView(context.terminal);
    try {
      const probe = await imagefs.probe();
      if (!probe.fanotify.ok && !probe.fuse.ok)
        throw new PlatformError("unsupported", `images cannot be mounted here: ${probe.fuse.why}`, {
          remedy: "Run as root on Linux, as the node agent does.",
        });
      const scratch = await mkdtemp(join(cacheDir, "seed-"));
      const mount = await imagefs.mount({
        bucket,
        manifestDigest,
        mountpoint: join(scratch, "root"),
        entry: null,
        signal: context.terminal.interrupted,
      });
      try {
        const { dataBytes } = await untilComplete(context, imagefs, manifestDigest, (progress) =>
          view.show([lineOf(progress)]),
        );
        view.end();
        context.show({ manifestDigest, cache: cacheDir, dataBytes }, () => [
          `${manifestDigest} is in ${cacheDir}: ${formatBytes(dataBytes)}`,
        ]);
      } finally {
        await mount.unmount();
        await rm(scratch, { recursive: true, force: true });
      }
    } finally {
      view.end();
      await (isServed ? imagefs.close() : imagefs.stop());
    }
  });

function lineOf({ presentBytes, dataBytes }: Progress): ViewLine {
  const percent = formatPercent(presentBytes / Math.max(1, dataBytes));
  const text = `${formatBytes(presentBytes)} of ${formatBytes(dataBytes)}, ${percent}`;
  return { key: "seed", text, fact: percent };
}

async function untilComplete(
  context: Context,
  imagefs: Imagefs,
  manifestDigest: string,
  show: (progress: Progress) => void,
): Promise<Progress> {
  let presentBytes = -1;
  let changedAt = performance.now();
  for (;;) {
    const image = (await imagefs.stats())?.images.find(({ key }) => manifestDigest.endsWith(key));
    if (image === undefined) throw new PlatformError("unavailable", "the image was unmounted meanwhile");
    show(image);
    if (image.presentBytes >= image.dataBytes) return image;
    if (image.presentBytes !== presentBytes) changedAt = performance.now();
    presentBytes = image.presentBytes;
    if (performance.now() - changedAt > STALL_TIMEOUT_MS)
      throw new PlatformError(
        "unavailable",
        `the bucket has delivered nothing for ${STALL_TIMEOUT_MS / 1000} s`,
        {
          remedy: "See imagefs.log in the cache directory.",
        },
      );
    await sleep(LOOK_INTERVAL_MS, undefined, { signal: context.terminal.interrupted });
  }
}
