// Images that are plain directories, for tests: `imageId` names a directory with an `image.json` that says what runs. A
// mount is a symbolic link, so tests see what is left over; programs run on the machine itself.
import { spawn } from "node:child_process";
import { mkdir, readdir, readFile, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import type { ImageRuntime } from "../backend.ts";

/** `directory` holds the links, one a place. */
export function directoryRuntime(directory: string): ImageRuntime {
  const link = (place: string) => join(directory, place);
  return {
    async mount(place, image) {
      await readFile(join(image.imageId, "image.json")).catch((cause) => {
        throw new PlatformError("notFound", `${image.imageId} is no image`, { cause });
      });
      await mkdir(directory, { recursive: true });
      await rm(link(place), { force: true });
      await symlink(image.imageId, link(place));
    },
    async launch(place, image, launch) {
      const { entrypoint } = JSON.parse(await readFile(join(link(place), "image.json"), "utf8")) as {
        entrypoint: [string, ...string[]];
      };
      const [program, ...args] = entrypoint;
      return spawn(program, args, {
        cwd: image.imageId,
        env: { PATH: process.env.PATH, ...launch.environment },
        stdio: ["ignore", launch.stdout, launch.stderr],
        detached: true,
      });
    },
    learnStart: async () => {},
    async unmount(place) {
      await rm(link(place), { force: true });
    },
    places: () => readdir(directory).catch(() => []),
  };
}
