// Reads of data that is all there: through a mounted image, and from the same file on the file system below. Cold page cache,
// in turns; each side is read by a process of its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { median } from "../src/report.ts";
import { dropCaches } from "./disk.ts";

const LOOK_INTERVAL_MS = 100;

export type LocalReads = { sequentialRatio: number; randomRatio: number; note: string };

export async function localReads(
  directory: string,
  bucketDir: string,
  manifestDigest: string,
  rounds: number,
): Promise<LocalReads> {
  const bucket = openStore(`file://${bucketDir}`);
  const imagefs = openImagefs({ cacheDir: join(directory, "cache") });
  const mountIt = () =>
    imagefs.mount({ bucket, manifestDigest, mountpoint: join(directory, "root"), entry: null });
  try {
    const first = await mountIt();
    for (;;) {
      const image = (await imagefs.stats())?.images[0];
      if (image !== undefined && image.presentBytes >= image.dataBytes && !image.watched) break;
      await sleep(LOOK_INTERVAL_MS);
    }
    // As every start after the one that brought it.
    await first.unmount();
    const mount = await mountIt();
    const { path, size } = await largestFile(mount.root);
    const copy = join(directory, "copy");
    await copyFile(path, copy);
    const times: Record<string, number[]> = {};
    for (let round = 0; round < rounds; round++)
      for (const pattern of ["sequential", "random"])
        for (const [side, file] of Object.entries({ mount: path, ext4: copy })) {
          await dropCaches();
          const key = `${pattern} ${side}`;
          times[key] ??= [];
          times[key].push(await timeReads(pattern, file));
        }
    const of = (key: string) => median(times[key] ?? []);
    const shown = Object.keys(times).map((key) => `${key} ${of(key).toFixed(0)} ms`);
    return {
      sequentialRatio: of("sequential ext4") / of("sequential mount"),
      randomRatio: of("random ext4") / of("random mount"),
      note: `${(size / 1e6).toFixed(0)} MB, cold: ${shown.join(", ")}`,
    };
  } finally {
    await imagefs.stop();
    await bucket.close();
  }
}

async function largestFile(root: string): Promise<{ path: string; size: number }> {
  let largest = { path: "", size: -1 };
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const { size } = await stat(path);
    if (size > largest.size) largest = { path, size };
  }
  return largest;
}

/** ms, as the reading process measures it. */
async function timeReads(pattern: string, path: string): Promise<number> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "read-file.ts"), pattern, path], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [output] = await Promise.all([text(child.stdout), once(child, "exit")]);
  return Number(output);
}
