// Which files a start reads, in the order of first touch: what other optimisers record by watching opens, read from what our mount
// noted.
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageKey, metadataImage, parseImageFile, readErofs } from "@pilotlight/image-format";
import { launch, openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { prepareBucket } from "./prepared.ts";
import type { ImageName } from "./recipes.ts";

const PAGE_BYTES = 4096;
/**
 * Files of which a start reads less are left out: what prefetches whole files would bring gigabytes of libraries of which it needs
 * a few pages.
 */
const READ_SHARE_MIN = 0.5;
const IMAGE_BYTES_MAX = 1 << 30;

/** Paths relative to the root. */
export async function filesOfStart(name: ImageName, log: (line: string) => void): Promise<string[]> {
  const { bucketDir, manifestDigest } = await prepareBucket(name, log);
  const bucket = openStore(`file://${bucketDir}`);
  const scratch = await mkdtemp(join(tmpdir(), "pilotlight-bench-touched-"));
  const imagefs = openImagefs({ cacheDir: join(scratch, "cache") });
  try {
    const mount = await imagefs.mount({
      bucket,
      manifestDigest,
      mountpoint: join(scratch, "root"),
      writableDir: join(scratch, "writable"),
      entry: null,
      fill: false,
    });
    const { process: program } = await launch(imagefs, mount, { stdio: ["ignore", "pipe", "inherit"] });
    program.stdout?.resume();
    await once(program, "exit");
    const touched = await mount.touched();
    const { bytes } = await bucket.get(imageKey(manifestDigest), { bytesMax: IMAGE_BYTES_MAX });
    const placed = [...readErofs(metadataImage(parseImageFile(Buffer.from(bytes))))]
      .flatMap(({ path, contentOffset, size }) =>
        contentOffset === undefined ? [] : [{ path, start: contentOffset, end: contentOffset + size }],
      )
      .sort((a, b) => a.start - b.start);
    const files = new Map<(typeof placed)[number], number>();
    for (const [page, pages] of touched) {
      const [from, to] = [page * PAGE_BYTES, (page + pages) * PAGE_BYTES];
      for (let i = firstAfter(placed, from); i < placed.length; i++) {
        const file = placed[i];
        if (file === undefined || file.start >= to) break;
        const read = Math.min(to, file.end) - Math.max(from, file.start);
        files.set(file, (files.get(file) ?? 0) + read);
      }
    }
    return [...files]
      .filter(([{ start, end }, read]) => read >= READ_SHARE_MIN * (end - start))
      .map(([{ path }]) => Buffer.from(path, "latin1").toString("utf8"));
  } finally {
    await imagefs.stop();
    await bucket.close();
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Position of the first file that ends after `offset`. */
function firstAfter(files: readonly { end: number }[], offset: number): number {
  let [low, high] = [0, files.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((files[middle]?.end ?? 0) > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
