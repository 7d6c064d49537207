// The last resort: the image as a plain directory tree, made by an ordinary user on any kernel. One pass over the blob in
// its order; each chunk is verified before its bytes are written. What needs root (owners, device nodes) is done as root
// and left out otherwise; extended attributes are left out always (Node cannot set them).
import { constants } from "node:fs";
import {
  chmod,
  type FileHandle,
  lchown,
  link,
  lutimes,
  mkdir,
  open,
  rename,
  rm,
  stat,
  symlink,
} from "node:fs/promises";
import {
  BLOB_KINDS,
  type ErofsEntry,
  type ImageFile,
  metadataImage,
  readErofs,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import { readChunks } from "./read-chunks.ts";

type Target = { entry: ErofsEntry; start: number; end: number };

/** Puts the image's tree at `directory` unless it is there. Throws `corrupt`, and what the bucket and the disk throw. */
export async function extractImage(
  file: ImageFile,
  bucket: ObjectStore,
  directory: string,
  signal?: AbortSignal,
): Promise<void> {
  if ((await stat(directory).catch(() => undefined)) !== undefined) return;
  const partial = `${directory}.partial-${process.pid}`;
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  try {
    await writeTree(file, bucket, partial, signal);
    await rename(partial, directory);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    // Another process may have been faster; its tree is as good.
    if ((await stat(directory).catch(() => undefined)) === undefined) throw error;
  }
}

async function writeTree(
  file: ImageFile,
  bucket: ObjectStore,
  root: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const entries = [...readErofs(metadataImage(file))];
  const firstNames = new Map<number, ErofsEntry>();
  const files: Target[] = [];
  for (const entry of entries) {
    if (firstNames.has(entry.inode)) continue;
    firstNames.set(entry.inode, entry);
    const path = pathIn(root, entry.path);
    if (entry.kind === "directory" && entry.path !== "") await mkdir(path, 0o700);
    else if (entry.kind === "symlink") await symlink(Buffer.from(entry.linkTarget, "latin1"), path);
    else if (entry.kind === "file") files.push(targetOf(entry));
  }
  await writeContent(file, bucket, root, files, signal);
  for (const entry of entries) {
    const first = firstNames.get(entry.inode);
    if (first !== undefined && first !== entry && entry.kind !== "directory" && isWritten(entry))
      await link(pathIn(root, first.path), pathIn(root, entry.path));
  }
  // Deepest first: a directory's times change when something is made in it.
  for (const entry of [...firstNames.values()].reverse())
    if (isWritten(entry)) await setAttributes(root, entry);
}

function targetOf(entry: ErofsEntry): Target {
  const start = entry.contentOffset ?? 0;
  return { entry, start, end: entry.contentOffset === undefined ? start : start + entry.size };
}

/** Files in the order of their content: each chunk goes to the files that lie in it. */
async function writeContent(
  file: ImageFile,
  bucket: ObjectStore,
  root: string,
  targets: Target[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const blob = file.index.blobs.find(({ kind }) => kind === BLOB_KINDS.erofsData);
  const order = targets
    .filter(({ entry }) => entry.contentOffset !== undefined)
    .sort((a, b) => a.start - b.start);
  for (const target of targets)
    if (target.entry.contentOffset === undefined) await (await create(root, target)).close();
  if (blob === undefined) return;
  let next = 0;
  let current: { target: Target; handle: FileHandle } | undefined;
  try {
    for await (const { offset, raw } of readChunks(bucket, file.index.packs, blob, signal)) {
      const end = offset + raw.length;
      while (true) {
        if (current === undefined) {
          const target = order[next];
          if (target === undefined || target.start >= end) break;
          next++;
          current = { target, handle: await create(root, target) };
        }
        const { target, handle } = current;
        const from = Math.max(target.start, offset);
        const to = Math.min(target.end, end);
        if (to > from) await handle.write(raw, from - offset, to - from, from - target.start);
        if (target.end > end) break;
        await handle.close();
        current = undefined;
      }
    }
  } finally {
    await current?.handle.close();
  }
}

async function create(root: string, { entry }: Target): Promise<FileHandle> {
  return open(
    pathIn(root, entry.path),
    constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW,
    0o600,
  );
}

function isWritten(entry: ErofsEntry): boolean {
  return entry.kind === "file" || entry.kind === "directory" || entry.kind === "symlink";
}

async function setAttributes(root: string, entry: ErofsEntry): Promise<void> {
  const path = pathIn(root, entry.path);
  const isRoot = process.geteuid?.() === 0;
  if (isRoot) await lchown(path, entry.uid, entry.gid);
  if (entry.kind !== "symlink") {
    // An ordinary user keeps access to what it owns, and never makes a program setuid to itself.
    const mode = isRoot ? entry.mode : (entry.mode & 0o777) | (entry.kind === "directory" ? 0o700 : 0o400);
    await chmod(path, mode);
  }
  const seconds = entry.mtimeSeconds + entry.mtimeNanoseconds / 1e9;
  await lutimes(path, seconds, seconds);
}

/** Names are bytes. They come from verified metadata, where none is empty, "..", or holds a slash. */
function pathIn(root: string, path: string): Buffer {
  return path === ""
    ? Buffer.from(root)
    : Buffer.concat([Buffer.from(`${root}/`), Buffer.from(path, "latin1")]);
}
