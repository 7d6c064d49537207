// Seeds: caches that were filled ahead, on a disk snapshot, in a node image or on a read-only volume. An image of a seed becomes one
// of this cache by a link to its content and copies of the small files; the processes check the rest (rust/node.rs).
import { existsSync } from "node:fs";
import { copyFile, mkdir, readFile, rename, rm, symlink } from "node:fs/promises";
import { join, resolve } from "node:path";
import * as z from "zod";

const CONTENT = "data.blob";
const SMALL_FILES = ["image.plimage", "present", "state.json"];

/** A cache that did not end cleanly is not to be trusted on another boot. */
const stateSchema = z.object({ clean: z.literal(true) });

/** Takes an image that `directory` (of this cache) does not hold from the first seed that has it. */
export async function takeSeed(seedDirs: readonly string[], key: string, directory: string): Promise<void> {
  if (seedDirs.length === 0 || existsSync(join(directory, "image.plimage"))) return;
  for (const seedDir of seedDirs) {
    const seed = join(resolve(seedDir), "images", key);
    if (!(await isClean(seed))) continue;
    const partial = `${directory}.seed-${process.pid}`;
    try {
      await rm(partial, { recursive: true, force: true });
      await mkdir(partial, { recursive: true });
      for (const name of SMALL_FILES) await copyFile(join(seed, name), join(partial, name));
      await symlink(join(seed, CONTENT), join(partial, CONTENT));
      await rename(partial, directory);
      return;
    } catch {
      // The image comes from the bucket then, or somebody else was faster.
      await rm(partial, { recursive: true, force: true });
    }
  }
}

async function isClean(seed: string): Promise<boolean> {
  try {
    return stateSchema.safeParse(JSON.parse(await readFile(join(seed, "state.json"), "utf8"))).success;
  } catch {
    return false;
  }
}
