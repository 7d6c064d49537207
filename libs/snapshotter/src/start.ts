// Puts the parts together and serves containerd on a socket.

import { mkdir, rm } from "node:fs/promises";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { Imagefs, MountMethod } from "@pilotlight/imagefs";
import type { ObjectStore } from "@pilotlight/object-store";
import type { RegistryOptions } from "@pilotlight/oci";
import { serveGrpc } from "@pilotlight/service";
import { logger } from "@pilotlight/telemetry";
import { openConversions } from "./conversions.ts";
import { ImageRoots } from "./image-roots.ts";
import { snapshotsService } from "./service.ts";
import { Snapshotter } from "./snapshotter.ts";
import type { SnapshotterTimes } from "./times.ts";

export type SnapshotterServiceOptions = {
  /** Where containerd finds us. Absolute; sockets' paths are short (107 bytes). */
  socket: string;
  /** For snapshots: records, files that containers write, mount points. Absolute, on a local file system. */
  directory: string;
  bucket: ObjectStore;
  imagefs: Imagefs;
  method: MountMethod | "auto";
  /** Where layers are read that the bucket has lost. */
  registry: RegistryOptions;
  /** host:port; empty: images that are not converted stay so. */
  imageConverterAddress: string;
  learnStarts: boolean;
  times: SnapshotterTimes;
};

const SOCKET_PATH_BYTES_MAX = 107;

/** Starts serving; returns how to stop. Mounts stay: containers stand on them. Throws `alreadyExists` where one serves already. */
export async function startSnapshotter(options: SnapshotterServiceOptions): Promise<() => Promise<void>> {
  const { socket, directory, imageConverterAddress, times } = options;
  const log = logger("snapshotter");
  await checkSocket(socket);
  const conversions = openConversions(imageConverterAddress, times);
  const roots = new ImageRoots({ ...options, directory: join(directory, "images") });
  const snapshotter = await Snapshotter.open({ directory, roots, conversions });
  const door = await serveGrpc(`unix:${socket}`, [snapshotsService(snapshotter)]);

  const housekeeping = setInterval(() => {
    snapshotter.cleanup().catch((error: unknown) => {
      log.warn("snapshots cannot be tidied", { error: toPlatformError(error) });
    });
  }, times.housekeepingIntervalMs);
  const keep = () => {
    for (const image of snapshotter.images()) conversions.want(image);
  };
  const keeping = setInterval(keep, times.keepIntervalMs);
  keep();
  log.info("serving containerd", { socket, images: snapshotter.images().length });
  return async () => {
    clearInterval(housekeeping);
    clearInterval(keeping);
    conversions.close();
    roots.close();
    await door.close(times.closeTimeoutMs);
    await rm(socket, { force: true });
  };
}

/** Makes the socket's folder, and takes away the socket that a killed process left. */
async function checkSocket(socket: string): Promise<void> {
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX)
    throw new PlatformError("invalidArgument", `the socket's path ${socket} is too long`, {
      field: "socket",
      remedy: `Choose one of at most ${SOCKET_PATH_BYTES_MAX} bytes.`,
    });
  await mkdir(dirname(socket), { recursive: true, mode: 0o711 });
  if (await answers(socket))
    throw new PlatformError("alreadyExists", `another snapshotter serves on ${socket}`, {
      remedy: "Stop it first: two would not know of each other's snapshots.",
    });
  await rm(socket, { force: true });
}

const answers = (socket: string): Promise<boolean> =>
  new Promise((resolve) => {
    const client = connect(socket);
    client.once("connect", () => {
      client.destroy();
      resolve(true);
    });
    client.once("error", () => resolve(false));
  });
