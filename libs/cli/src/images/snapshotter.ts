// `image snapshotter`: serves a containerd on this machine, for which nothing of the platform has to run. With --end: ends what it
// leaves running for containers when it ends itself.
import { once } from "node:events";
import { join, resolve } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import { openImagefs } from "@pilotlight/imagefs";
import { countSnapshots, DEFAULT_SNAPSHOTTER_TIMES, startSnapshotter } from "@pilotlight/snapshotter";
import { configureLogging } from "@pilotlight/telemetry";
import type { Context } from "../context.ts";
import { type RegistryChoice, registryOptions, withBucket } from "./stored-image.ts";

export type SnapshotterChoice = {
  bucket: string | undefined;
  socket: string;
  directory: string;
  method: "auto" | "fanotify" | "fuse" | "extract";
  converter: string;
  registry: RegistryChoice;
};

/** Serves until it is told to stop. Mounts stay, so that it may be started again under running containers. */
export const serveContainerd = (context: Context, choice: SnapshotterChoice): Promise<void> =>
  withBucket(context, choice.bucket, async (bucket) => {
    const { terminal } = context;
    configureLogging({ service: "snapshotter", level: "info", fields: {} });
    const directory = resolve(terminal.cwd, choice.directory);
    const socket = resolve(terminal.cwd, choice.socket);
    const imagefs = openImagefs({ cacheDir: cacheIn(directory) });
    const { signal: _, platform: __, ...registry } = registryOptions(context, choice.registry);
    const stop = await startSnapshotter({
      socket,
      directory: snapshotsIn(directory),
      bucket,
      imagefs,
      method: choice.method,
      registry,
      imageConverterAddress: choice.converter,
      learnStarts: !bucket.uri.startsWith("file:"),
      times: DEFAULT_SNAPSHOTTER_TIMES,
    });
    context.showLine({ socket, directory }, () => `serving containerd on ${socket}`);
    if (!terminal.interrupted.aborted)
      await Promise.race([once(terminal.interrupted, "abort"), once(process, "SIGTERM")]);
    await stop();
    await imagefs.close();
  });

/** Ends the processes that mount images, of a snapshotter that was stopped for good. Refuses while containerd has snapshots. */
export async function endMounting(context: Context, choice: { directory: string }): Promise<void> {
  const directory = resolve(context.terminal.cwd, choice.directory);
  const snapshots = await countSnapshots(snapshotsIn(directory));
  if (snapshots > 0) {
    throw new PlatformError(
      "preconditionFailed",
      `containerd still has ${snapshots} snapshots in ${directory}`,
      {
        remedy:
          "Remove the containers and images of this snapshotter first, while it runs (ctr images rm, crictl rmi).",
      },
    );
  }
  await openImagefs({ cacheDir: cacheIn(directory) }).stop();
  context.showLine({ directory }, () => `nothing is mounted from ${directory} any more`);
}

const cacheIn = (directory: string) => join(directory, "cache");
const snapshotsIn = (directory: string) => join(directory, "snapshotter");
