// Images as our side stores them, with what their starts touch: made once for each state of the converter, kept beside the images.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { convert, profile } from "./conversion.ts";
import { type ImageName, type PreparedImage, prepareImage } from "./recipes.ts";

const LEARNING_STARTS = 2;
const REPOSITORY = join(import.meta.dirname, "../..");
/** What decides about the bytes of a converted image and of its hot pack. */
const SOURCES = ["libs/image-format/src", "libs/image-conversion/src", "native/imagefs/src"];

export type PreparedBucket = { image: PreparedImage; bucketDir: string; manifestDigest: string };

/** The image in a bucket of its own. */
export async function prepareBucket(name: ImageName, log: (line: string) => void): Promise<PreparedBucket> {
  const image = await prepareImage(name, log);
  const cache = join(image.directory, "..");
  const made = `bucket-${basename(image.directory)}`;
  const directory = join(cache, `${made}-${await stateOfSources()}`);
  const bucketDir = join(directory, "bucket");
  const about = join(directory, "about.json");
  if (!existsSync(directory)) {
    // What an older converter made is of no use any more.
    for (const old of await readdir(cache))
      if (old.startsWith(`${made}-`)) await rm(join(cache, old), { recursive: true });
    log(`${name}: converting, and learning from ${LEARNING_STARTS} starts`);
    const partial = await mkdtemp(join(cache, "partial-"));
    try {
      await mkdir(join(partial, "bucket"));
      const { manifestDigest } = await convert(image.reference, join(partial, "bucket"));
      for (let i = 0; i < LEARNING_STARTS; i++) await profile(manifestDigest, join(partial, "bucket"));
      await writeFile(join(partial, "about.json"), JSON.stringify({ manifestDigest }));
      await rename(partial, directory);
    } catch (error) {
      await rm(partial, { recursive: true, force: true });
      throw error;
    }
  }
  const { manifestDigest } = JSON.parse(await readFile(about, "utf8")) as { manifestDigest: string };
  return { image, bucketDir, manifestDigest };
}

async function stateOfSources(): Promise<string> {
  const hash = createHash("sha256");
  for (const folder of SOURCES) {
    const files = await readdir(join(REPOSITORY, folder), { recursive: true });
    for (const file of files.sort())
      if (file.endsWith(".ts") && !file.endsWith(".test.ts"))
        hash.update(file).update(await readFile(join(REPOSITORY, folder, file)));
  }
  return hash.digest("hex").slice(0, 8);
}
