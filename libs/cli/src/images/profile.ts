// `image profile`: one start of a program on an empty cache, recorded, so that the next starts read what it needed as one stream.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError } from "@pilotlight/errors";
import {
  entryName,
  type Imagefs,
  launch,
  type Mount,
  type NodeLoad,
  openImagefs,
  watchLoad,
} from "@pilotlight/imagefs";
import { parseImageConfig, runConfigOf } from "@pilotlight/oci";
import type { Context } from "../context.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { formatBytes, formatDuration, formatPercent } from "../text/format.ts";
import { findImage, type Stored, withBucket } from "./stored-image.ts";

/** `command`: instead of the image's own. `upAfterMs`: a program that still runs then counts as up, and is ended. */
export type ProfileChoice = { command: readonly string[]; upAfterMs: number };

const END_WAIT_MS = 5_000;

export const profile = (context: Context, stored: Stored, choice: ProfileChoice): Promise<void> =>
  withBucket(context, stored.bucket, async (bucket) => {
    const { manifest } = await findImage(context, bucket, stored);
    const own = runConfigOf(parseImageConfig(Buffer.from(manifest.ociConfig)));
    const command = choice.command.length > 0 ? choice.command : [...own.entrypoint, ...own.cmd];
    const scratch = await mkdtemp(join(tmpdir(), "pilotlight-profile-"));
    const imagefs = openImagefs({ cacheDir: join(scratch, "cache") });
    try {
      const watch = await watchLoad(scratch);
      const mount = await imagefs.mount({
        bucket,
        manifestDigest: manifest.manifestDigest,
        mountpoint: join(scratch, "root"),
        writableDir: join(scratch, "writable"),
        entry: entryName(command),
        fill: false,
      });
      const durationMs = await start(context, imagefs, mount, command, choice.upAfterMs);
      const load = await watch.soFar();
      const fetchedBytes = (await imagefs.stats())?.images[0]?.fetchedBytes ?? 0;
      const recorded = await mount.recordStart();
      if (recorded === undefined)
        throw new PlatformError("unsupported", `a mount by '${mount.method}' records nothing`, {
          remedy: "Run as root on a kernel that mounts by fanotify or FUSE.",
        });
      context.show(
        { manifestDigest: manifest.manifestDigest, command, durationMs, ...recorded, fetchedBytes, load },
        () => [
          `${manifest.manifestDigest}: ${recorded.starts} starts of ${JSON.stringify(command)} known, the last took ${formatDuration(durationMs)}`,
          `  a start touches ${formatBytes(recorded.hotBytes)}${recorded.hotPackBytes === undefined ? "; the hot pack still fits" : `, ${formatBytes(recorded.hotPackBytes)} as a new hot pack`}`,
          `  ${loadLine(load, fetchedBytes)}`,
        ],
      );
    } finally {
      await imagefs.stop();
      await rm(scratch, { recursive: true, force: true });
    }
  });

/** Link, disk and processor beside each other: which of them held the start up. */
function loadLine(
  { durationMs, diskWrittenBytes, diskBusyMs, cpuMs, cores }: NodeLoad,
  fetchedBytes: number,
): string {
  const rate = (bytes: number) => `${formatBytes(bytes)} (${formatBytes((bytes / durationMs) * 1000)}/s)`;
  const disk =
    diskWrittenBytes === undefined
      ? "no disk of its own"
      : `${rate(diskWrittenBytes)} written to the disk, busy for ${formatPercent((diskBusyMs ?? 0) / durationMs)}`;
  const cpu = `${(cpuMs / durationMs).toFixed(1)} of ${cores} cores in use`;
  return `meanwhile on this node: ${rate(fetchedBytes)} from the bucket, ${disk}, ${cpu}`;
}

/** Runs the program until it ends or is up. Throws when it fails. */
async function start(
  context: Context,
  imagefs: Imagefs,
  mount: Mount,
  command: readonly string[],
  upAfterMs: number,
): Promise<number> {
  const startedAt = Date.now();
  // What the program says belongs to the person, not to the result.
  const { process: program } = await launch(imagefs, mount, {
    entrypoint: command,
    stdio: ["ignore", 2, 2],
  });
  const ended = new Promise<number | null>((resolve) => program.once("exit", (code) => resolve(code)));
  const up = sleep(upAfterMs, "up" as const, { signal: context.terminal.interrupted, ref: false });
  const outcome = await Promise.race([ended, up]).catch((error: unknown) => {
    program.kill("SIGKILL");
    throw error;
  });
  if (outcome === "up") {
    program.kill("SIGTERM");
    const patience = setTimeout(() => program.kill("SIGKILL"), END_WAIT_MS);
    await ended;
    clearTimeout(patience);
  } else if (outcome !== 0) {
    throw new Unsuccessful(`the program ended with ${outcome ?? "a signal"}: its start is not recorded`);
  }
  return Date.now() - startedAt;
}
