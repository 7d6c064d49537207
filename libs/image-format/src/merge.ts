// Merges layers into one tree, by the rules of the OCI image spec ("Changesets", "Whiteouts") and, where the spec is
// silent, as containerd's overlayfs snapshotter shows them.
//   M1. Whiteouts and opaque marks act on lower layers only, wherever they stand in their own archive.
//   M2. A directory over a directory keeps the children; anything else replaces what was there, with its subtree.
//   M3. A symbolic link in the way of a path is followed, clamped to the root, if its own layer made it; one from a
//       lower layer is replaced by a directory (containerd unpacks into an empty upper directory).
//   M4. Hard links share one inode. When one name is replaced above, the others keep the old inode.
// Pure; nothing here touches a real file system, so nothing can escape from it.
import { PlatformError } from "@pilotlight/errors";
import { compareBytes, textOfBytes } from "./byte-string.ts";
import type { LayerEntry } from "./layer-scan.ts";
import { nameOf, parentOf } from "./path.ts";

export type InodeKind = "file" | "directory" | "symlink" | "charDevice" | "blockDevice" | "fifo";

/** A file's content: chunk number within its layer, offset in that chunk; the layer counts from the bottom, from 0. */
export type ContentPlace = { layer: number; chunk: number; offset: number };

export type Inode = {
  kind: InodeKind;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSeconds: number;
  mtimeNanoseconds: number;
  /** Symlinks. */
  linkTarget: string;
  devMajor: number;
  devMinor: number;
  xattrs: ReadonlyMap<string, Buffer>;
  content: ContentPlace | undefined;
  /** Directories: by name (byte string), in no particular order. */
  children: Map<string, Inode> | undefined;
  /** The layer that made it. */
  layer: number;
};

const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";
/** Other names of the aufs era carry no content. */
const WHITEOUT_META = ".wh..wh.";
const SYMLINK_HOPS_MAX = 40;
const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map();

/** Merges from the bottom up. Throws `corrupt` for archives that cannot be unpacked by anyone. */
export class LayerMerger {
  readonly root: Inode = directory(0);
  #layer = -1;

  /** Puts one more layer on top. `entries` in archive order. */
  apply(entries: readonly LayerEntry[]): void {
    this.#layer++;
    for (const entry of entries) this.#whiteOut(entry.path);
    for (const entry of entries) this.#add(entry);
  }

  #whiteOut(path: string): void {
    const name = nameOf(path);
    if (!name.startsWith(WHITEOUT)) return;
    // Strictly by real directories: below a symbolic link there is nothing of a lower layer to hide (M3).
    const parent = this.#find(parentOf(path));
    if (parent?.children === undefined) return;
    if (name === OPAQUE) parent.children.clear();
    else if (!name.startsWith(WHITEOUT_META)) parent.children.delete(name.slice(WHITEOUT.length));
  }

  #find(path: string): Inode | undefined {
    let at: Inode | undefined = this.root;
    if (path === "") return at;
    for (const name of path.split("/")) {
      at = at?.children?.get(name);
      if (at === undefined) return undefined;
    }
    return at;
  }

  #add(entry: LayerEntry): void {
    if (entry.path === "") {
      this.#addRoot(entry);
      return;
    }
    const name = nameOf(entry.path);
    // A whiteout makes its parent directories like any entry does, and nothing else here.
    const parent = this.#makeDirectories(parentOf(entry.path));
    if (name.startsWith(WHITEOUT)) return;
    if (entry.kind === "hardlink") {
      this.#link(parent, name, entry);
      return;
    }
    const children = childrenOf(parent);
    const before = children.get(name);
    const inode = this.#inodeOf(entry);
    if (inode.kind === "directory" && before?.kind === "directory") inode.children = before.children;
    children.set(name, inode);
  }

  /** Owner, mode and time of the root entry count; as anything but a directory it is refused. */
  #addRoot(entry: LayerEntry): void {
    if (entry.kind !== "directory")
      throw corrupt("makes the root something else than a directory", entry.path);
    const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs } = entry;
    Object.assign(this.root, { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs, layer: this.#layer });
  }

  #link(parent: Inode, name: string, entry: LayerEntry): void {
    const holder = this.#makeDirectories(parentOf(entry.linkTarget), "lookup");
    const target = holder?.children?.get(nameOf(entry.linkTarget));
    if (target === undefined)
      throw corrupt(
        `links to ${JSON.stringify(textOfBytes(entry.linkTarget))}, which is not there`,
        entry.path,
      );
    if (target.kind === "directory") throw corrupt("is a hard link to a directory", entry.path);
    childrenOf(parent).set(name, target);
  }

  #inodeOf(entry: LayerEntry): Inode {
    if (entry.kind === "hardlink") throw new PlatformError("internal", "a hard link has no inode of its own");
    return {
      kind: entry.kind,
      // A symbolic link's own mode is always 0777 on Linux.
      mode: entry.kind === "symlink" ? 0o777 : entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      size: entry.kind === "symlink" ? entry.linkTarget.length : entry.size,
      mtimeSeconds: entry.mtimeSeconds,
      mtimeNanoseconds: entry.mtimeNanoseconds,
      linkTarget: entry.linkTarget,
      devMajor: entry.devMajor,
      devMinor: entry.devMinor,
      xattrs: entry.xattrs,
      content: entry.place === undefined ? undefined : { layer: this.#layer, ...entry.place },
      children: entry.kind === "directory" ? new Map() : undefined,
      layer: this.#layer,
    };
  }

  #makeDirectories(path: string): Inode;
  #makeDirectories(path: string, mode: "lookup"): Inode | undefined;
  #makeDirectories(path: string, mode?: "lookup"): Inode | undefined {
    // `trail` are the directories from the root to where we are, so that ".." in a link's target can go back up.
    const trail: Inode[] = [this.root];
    const remaining = path === "" ? [] : path.split("/").reverse();
    let hops = 0;
    while (remaining.length > 0) {
      const name = remaining.pop() as string;
      if (name === "" || name === ".") continue;
      if (name === "..") {
        if (trail.length > 1) trail.pop();
        continue;
      }
      const here = trail[trail.length - 1] as Inode;
      const next = childrenOf(here).get(name);
      if (next?.kind === "symlink" && next.layer === this.#layer) {
        if (++hops > SYMLINK_HOPS_MAX) throw corrupt("lies below a loop of symbolic links", path);
        if (next.linkTarget.startsWith("/")) trail.length = 1;
        remaining.push(...next.linkTarget.split("/").reverse());
        continue;
      }
      if (next?.kind === "directory") {
        trail.push(next);
        continue;
      }
      if (mode === "lookup") return undefined;
      if (next !== undefined && next.kind !== "symlink" && next.layer === this.#layer) {
        throw corrupt(
          `lies below ${JSON.stringify(textOfBytes(name))}, which the same layer made a ${next.kind}`,
          path,
        );
      }
      const made = directory(this.#layer);
      childrenOf(here).set(name, made);
      trail.push(made);
    }
    return trail[trail.length - 1] as Inode;
  }
}

/** Every inode once, each directory before its children, children by name; `paths` counts names, hard links included. */
export function* walk(root: Inode): Generator<{ path: string; inode: Inode; first: boolean }> {
  const seen = new Set<Inode>();
  const stack: Array<{ path: string; inode: Inode }> = [{ path: "", inode: root }];
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { path, inode } = next;
    const first = inode.kind === "directory" || !seen.has(inode);
    if (inode.kind !== "directory") seen.add(inode);
    yield { path, inode, first };
    for (const [name, child] of sortedChildren(inode).reverse()) {
      stack.push({ path: path === "" ? name : `${path}/${name}`, inode: child });
    }
  }
}

/** A directory's entries in byte order of their names. */
export function sortedChildren(inode: Inode): Array<[string, Inode]> {
  return inode.children === undefined ? [] : [...inode.children].sort(([a], [b]) => compareBytes(a, b));
}

function directory(layer: number): Inode {
  return {
    kind: "directory",
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtimeSeconds: 0,
    mtimeNanoseconds: 0,
    linkTarget: "",
    devMajor: 0,
    devMinor: 0,
    xattrs: NO_XATTRS,
    content: undefined,
    children: new Map(),
    layer,
  };
}

function childrenOf(inode: Inode): Map<string, Inode> {
  if (inode.children === undefined) throw new PlatformError("internal", "not a directory");
  return inode.children;
}

function corrupt(what: string, path: string): PlatformError {
  return new PlatformError("corrupt", `the layer's entry ${JSON.stringify(textOfBytes(path))} ${what}`, {
    remedy: "The layer is hostile or was written by a broken tool; no container runtime can unpack it.",
  });
}
