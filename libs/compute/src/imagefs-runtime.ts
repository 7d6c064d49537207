// Images through the image file system: mounted lazily from the bucket, entered by its launcher.
import type { ChildProcess } from "node:child_process";
import { mkdir, readdir, readFile, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Imagefs,
  launch as launchIn,
  launchMode,
  type Mount,
  type MountMethod,
} from "@pilotlight/imagefs";
import type { ObjectStore } from "@pilotlight/object-store";
import { logger } from "@pilotlight/telemetry";
import type { ImageRuntime, ImageToMount } from "./backend.ts";
import { type StartLoad, watchStart } from "./start-load.ts";

export type ImagefsRuntimeOptions = {
  imagefs: Imagefs;
  /** Where the converted images are. */
  bucket: ObjectStore;
  /** Holds a mount point and a writable layer for each place. Absolute. */
  directory: string;
  /** How images are mounted; "auto": the best way that works here. */
  method: MountMethod | "auto";
  /** Whether starts are recorded, so that the next one reads ahead; a bucket on this machine is fast enough without. */
  learnStarts: boolean;
};

/** The first requests, which waited for the replica, are answered before anything else is done for its image. */
const AFTER_START_MS = 3_000;

/** Runs places in images of the bucket. */
export function imagefsRuntime(options: ImagefsRuntimeOptions): ImageRuntime {
  const { imagefs, bucket, directory, method, learnStarts } = options;
  const roots = join(directory, "roots");
  const layers = join(directory, "layers");
  const mounts = new Map<string, Mount>();

  const starts = new Map<string, StartLoad>();

  const mount = async (place: string, image: ImageToMount, signal: AbortSignal): Promise<Mount> => {
    const known = mounts.get(place);
    if (known !== undefined) return known;
    await unmount(place); // what a killed agent left half done
    await mkdir(roots, { recursive: true });
    starts.set(place, await watchStart(imagefs));
    const made = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      imageId: image.imageId,
      mountpoint: join(roots, place),
      writableDir: join(layers, place),
      method,
      ...(learnStarts ? {} : { entry: null }),
      // The rest is brought when the start is over: meanwhile link, disk and processors have other work.
      fill: false,
      signal,
    });
    mounts.set(place, made);
    return made;
  };

  const unmount = async (place: string): Promise<void> => {
    mounts.delete(place);
    starts.delete(place);
    const root = join(roots, place);
    if (await isMounted(root)) await imagefs.unmount(root);
    await rmdir(root).catch(() => {}); // not there, or gone with the mount
    await rm(join(layers, place), { recursive: true, force: true });
  };

  return {
    async mount(place, image, signal) {
      await mount(place, image, signal);
    },
    async launch(place, image, launch, signal): Promise<ChildProcess> {
      const mounted = await mount(place, image, signal);
      const direct = (await launchMode(imagefs)) === "direct"; // then it sees the host's folders anyway
      const binds = [
        ...launch.binds.map(({ path, writable }) => ({ source: path, target: path, readOnly: !writable })),
        ...launch.devices.map((path) => ({ source: path, target: path, readOnly: false })),
      ];
      const { process } = await launchIn(imagefs, mounted, {
        env: launch.environment,
        binds: direct ? [] : binds,
        stdio: ["ignore", launch.stdout, launch.stderr],
        outlivesCaller: true,
        launcherEnv: launch.mark,
      });
      return process;
    },
    async learnStart(place) {
      await starts.get(place)?.report(place);
      starts.delete(place);
      await sleep(AFTER_START_MS, undefined, { ref: false });
      const mounted = mounts.get(place);
      const learnt = learnStarts ? await mounted?.recordStart() : undefined;
      if (learnt !== undefined) logger("images").info("learnt from a start", { place, ...learnt });
      await mounted?.fill();
    },
    unmount,
    async places() {
      const held = await Promise.all([roots, layers].map((folder) => readdir(folder).catch(() => [])));
      return [...new Set(held.flat())];
    },
  };
}

/** Whether something is mounted right there (mountinfo: proc_pid_mountinfo(5), field 5). */
async function isMounted(path: string): Promise<boolean> {
  const table = await readFile("/proc/self/mountinfo", "utf8");
  return table.split("\n").some((line) => line.split(" ")[4] === path);
}
