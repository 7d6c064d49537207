// Listing a directory in the order in which object stores list: by the bytes of the whole key. A folder therefore
// sorts as its name with a slash ("a.txt" before "a/b"), and folders that cannot match are not entered.
import type { Dirent } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { toPlatformError } from "@pilotlight/errors";
import { infoOf } from "./file-object.ts";
import { compareKeys, RESERVED_NAME } from "./keys.ts";
import { throwIfAborted } from "./limits.ts";
import type { ListOptions, ObjectInfo } from "./store.ts";

export async function* listDirectory(root: string, options: ListOptions): AsyncGenerator<ObjectInfo> {
  yield* walk(root, "", options);
}

async function* walk(root: string, folder: string, options: ListOptions): AsyncGenerator<ObjectInfo> {
  const { prefix = "", startAfter = "", signal } = options;
  const entries = await readdir(join(root, folder), { withFileTypes: true }).catch(gone);
  const names = (await Promise.all((entries ?? []).map((entry) => sortName(root, folder, entry)))).filter(
    (name) => name !== undefined,
  );
  for (const name of names.sort(compareKeys)) {
    throwIfAborted(signal);
    const key = folder + name;
    if (name.endsWith("/")) {
      const mayMatch = key.startsWith(prefix) || prefix.startsWith(key);
      const mayFollow = startAfter.startsWith(key) || compareKeys(key, startAfter) > 0;
      if (mayMatch && mayFollow) yield* walk(root, key, options);
    } else if (key.startsWith(prefix) && compareKeys(key, startAfter) > 0) {
      const stats = await stat(join(root, key), { bigint: true }).catch(gone);
      if (stats?.isFile()) yield infoOf(key, stats);
    }
  }
}

async function sortName(root: string, folder: string, entry: Dirent): Promise<string | undefined> {
  if (entry.name.startsWith(RESERVED_NAME)) return undefined;
  if (entry.isDirectory()) return `${entry.name}/`;
  if (entry.isFile()) return entry.name;
  if (!entry.isSymbolicLink()) return undefined;
  const stats = await stat(join(root, folder, entry.name)).catch(gone);
  // Linked folders are not entered: a link may lead back up.
  return stats?.isFile() ? entry.name : undefined;
}

function gone(error: NodeJS.ErrnoException): undefined {
  if (error.code === "ENOENT" || error.code === "ENOTDIR" || error.code === "ELOOP") return undefined;
  throw toPlatformError(error);
}
