// What a directory takes on the disk, as `du` counts: blocks, files with several names once.
import type { Stats } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { toPlatformError } from "@pilotlight/errors";
import type { SnapshotUsage } from "./record.ts";

const BLOCK_BYTES = 512;
/** Looked at side by side: enough to keep the thread pool busy. */
const FILES_AT_ONCE = 16;

/** Files that vanish meanwhile are left out: an active snapshot changes while it is counted. */
export async function usageOf(directory: string, signal?: AbortSignal): Promise<SnapshotUsage> {
  const usage: SnapshotUsage = { bytes: 0, inodes: 0 };
  const linked = new Set<string>();
  const add = (info: Stats) => {
    const name = `${info.dev}:${info.ino}`;
    if (!info.isDirectory() && info.nlink > 1) {
      if (linked.has(name)) return;
      linked.add(name);
    }
    usage.inodes++;
    usage.bytes += info.blocks * BLOCK_BYTES;
  };
  const pending = [Buffer.from(directory)];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    signal?.throwIfAborted();
    const here = at;
    const info = await present(lstat(here));
    if (info === undefined) continue;
    add(info);
    const entries = (await present(readdir(here, { withFileTypes: true, encoding: "buffer" }))) ?? [];
    const paths = entries.map(({ name }) => Buffer.concat([here, Buffer.from("/"), name]));
    const files = paths.filter((_, i) => entries[i]?.isDirectory() !== true);
    for (let i = 0; i < files.length; i += FILES_AT_ONCE) {
      const infos = await Promise.all(files.slice(i, i + FILES_AT_ONCE).map((path) => present(lstat(path))));
      for (const one of infos) if (one !== undefined) add(one);
    }
    pending.push(...paths.filter((_, i) => entries[i]?.isDirectory() === true));
  }
  return usage;
}

async function present<T>(look: Promise<T>): Promise<T | undefined> {
  try {
    return await look;
  } catch (error) {
    if (toPlatformError(error).code === "notFound") return undefined;
    throw error;
  }
}
