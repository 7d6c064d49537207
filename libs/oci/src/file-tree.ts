// File trees of this machine as tar items: normalised, sorted, with parents, so that the same files give the same layer.
import { createReadStream } from "node:fs";
import { lstat, readdir, readlink, stat } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import type { TarItem } from "./tar-writer.ts";

/** Something to put into a layer. `to` is the absolute path in the image. */
export type LayerSource =
  | {
      /** A file or directory of this machine, copied with what is below it. Symbolic links stay links. */
      from: string;
      to: string;
      /** Paths relative to `from` that are left out, with what is below them. */
      exclude?: (path: string) => boolean;
      /** Follow a symbolic link at `from` itself. */
      dereference?: boolean;
    }
  | { to: string; content: string | Buffer; mode?: number }
  | { to: string; symlink: string }
  | { to: string; directory: true; mode?: number };

/** The items of a layer: everything that `sources` name and the directories above it, each path once, the last one wins. */
export async function layerItems(sources: readonly LayerSource[]): Promise<TarItem[]> {
  const items = new Map<string, TarItem>();
  for (const source of sources) {
    const to = source.to.replace(/^\/+|\/+$/g, "");
    if (to.split("/").includes(".."))
      throw new PlatformError("invalidArgument", `${source.to} climbs out of the image`);
    addParents(items, to);
    if ("from" in source) await addTree(items, source.from, to, "", source);
    else addMade(items, to, source);
  }
  return [...items.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function addParents(items: Map<string, TarItem>, path: string): void {
  const parts = path.split("/").slice(0, -1);
  for (let i = 1; i <= parts.length; i++) {
    const parent = parts.slice(0, i).join("/");
    if (!items.has(parent)) items.set(parent, { kind: "directory", path: parent, mode: 0o755 });
  }
}

function addMade(
  items: Map<string, TarItem>,
  path: string,
  source: Exclude<LayerSource, { from: string }>,
): void {
  if ("symlink" in source) {
    items.set(path, { kind: "symlink", path, mode: 0o777, target: source.symlink });
  } else if ("directory" in source) {
    items.set(path, { kind: "directory", path, mode: source.mode ?? 0o755 });
  } else {
    const bytes = Buffer.from(source.content);
    items.set(path, {
      kind: "file",
      path,
      mode: source.mode ?? 0o644,
      size: bytes.length,
      content: () => once(bytes),
    });
  }
}

async function addTree(
  items: Map<string, TarItem>,
  from: string,
  to: string,
  relative: string,
  source: Extract<LayerSource, { from: string }>,
): Promise<void> {
  if (relative !== "" && source.exclude?.(relative) === true) return;
  const path = relative === "" ? to : to === "" ? relative : `${to}/${relative}`;
  const local = join(from, relative);
  const info = relative === "" && source.dereference === true ? await stat(local) : await lstat(local);
  if (info.isSymbolicLink()) {
    items.set(path, { kind: "symlink", path, mode: 0o777, target: await readlink(local) });
  } else if (info.isDirectory()) {
    if (path !== "") items.set(path, { kind: "directory", path, mode: 0o755 });
    for (const name of (await readdir(local)).sort()) {
      await addTree(items, from, to, relative === "" ? name : `${relative}/${name}`, source);
    }
  } else if (info.isFile()) {
    // Owner, times and umask are this machine's affair: only whether it is executable matters.
    const mode = (info.mode & 0o111) !== 0 ? 0o755 : 0o644;
    items.set(path, {
      kind: "file",
      path,
      mode,
      size: info.size,
      content: () => createReadStream(local, { highWaterMark: 512 << 10 }),
    });
  }
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}
