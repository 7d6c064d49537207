// `image snapshotter`: serves a containerd on this machine, for which nothing of the platform has to run.
import { once } from "node:events";
import { join, resolve } from "node:path";
import { openImagefs } from "@pilotlight/imagefs";
import { startSnapshotter } from "@pilotlight/snapshotter";
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

const LOOKUP_TIMEOUT_MS = 5_000;

/** Serves until it is told to stop. Mounts stay, so that it may be started again under running containers. */
export const serveContainerd = (context: Context, choice: SnapshotterChoice): Promise<void> =>
  withBucket(context, choice.bucket, async (bucket) => {
    const { terminal } = context;
    configureLogging({ service: "snapshotter", level: "info", fields: {} });
    const directory = resolve(terminal.cwd, choice.directory);
    const socket = resolve(terminal.cwd, choice.socket);
    const imagefs = openImagefs({ cacheDir: join(directory, "cache") });
    const { signal: _, platform: __, ...registry } = registryOptions(context, choice.registry);
    const stop = await startSnapshotter({
      socket,
      directory: join(directory, "snapshotter"),
      bucket,
      imagefs,
      method: choice.method,
      registry,
      imageConverterAddress: choice.converter,
      learnStarts: !bucket.uri.startsWith("file:"),
      lookupTimeoutMs: LOOKUP_TIMEOUT_MS,
    });
    context.showLine({ socket, directory }, () => `serving containerd on ${socket}`);
    if (!terminal.interrupted.aborted)
      await Promise.race([once(terminal.interrupted, "abort"), once(process, "SIGTERM")]);
    await stop();
    await imagefs.close();
  });
