// Compares two directory trees entry by entry: a mounted image with what another tool made of the same layers.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import type { Imagefs } from "./imagefs.ts";

const entrySchema = z.object({
  path: z.string(),
  kind: z.string(),
  mode: z.number(),
  uid: z.number(),
  gid: z.number(),
  size: z.number(),
  mtime: z.string(),
  inode: z.number(),
  links: z.number(),
  device: z.string(),
  content: z.string(),
  xattrs: z.record(z.string(), z.string()),
});

type TreeEntry = z.infer<typeof entrySchema>;

export type CompareOptions = {
  /** What is not looked at, because the other tool does not keep it, e.g. "mtime" for directories that it made itself. */
  ignore?: (path: string, field: keyof TreeEntry) => boolean;
};

const COMPARED = ["kind", "mode", "uid", "gid", "size", "mtime", "device", "content", "xattrs"] as const;
const DIFFERENCES_MAX = 200;

export type TreeComparison = {
  /** Entries of our tree that were compared. */
  files: number;
  /** One line each; empty when the trees are equal. */
  differences: string[];
};

/** Compares every entry of two trees. Hard links are compared as groups of names. Paths given to `ignore` are latin1. */
export async function compareTrees(
  imagefs: Imagefs,
  ours: string,
  theirs: string,
  options: CompareOptions = {},
): Promise<TreeComparison> {
  const [mine, other] = await Promise.all([listTree(imagefs, ours), listTree(imagefs, theirs)]);
  const differences: string[] = [];
  const ignored = options.ignore ?? (() => false);
  for (const [path, a] of mine) {
    const b = other.get(path);
    const name = JSON.stringify(Buffer.from(path, "hex").toString("utf8"));
    const bytes = Buffer.from(path, "hex").toString("latin1");
    if (b === undefined) {
      differences.push(`${name} is only in ${ours}`);
      continue;
    }
    for (const field of COMPARED) {
      const [left, right] = [JSON.stringify(a[field]), JSON.stringify(b[field])];
      if (left !== right && !ignored(bytes, field))
        differences.push(`${name}: ${field} ${left} and ${right}`);
    }
  }
  for (const path of other.keys())
    if (!mine.has(path))
      differences.push(`${JSON.stringify(Buffer.from(path, "hex").toString("utf8"))} is only in ${theirs}`);
  if (JSON.stringify(linkGroups(mine)) !== JSON.stringify(linkGroups(other)))
    differences.push("hard links connect other names");
  return { files: mine.size, differences: differences.slice(0, DIFFERENCES_MAX) };
}

async function listTree(imagefs: Imagefs, directory: string): Promise<Map<string, TreeEntry>> {
  if (imagefs.binary === undefined)
    throw new PlatformError("unsupported", "the imagefs program is not built", {
      remedy: "Run node native/imagefs/build.mjs.",
    });
  const child = spawn(imagefs.binary, ["tree", directory], { stdio: ["ignore", "pipe", "pipe"] });
  const errors: string[] = [];
  createInterface({ input: child.stderr }).on("line", (line) => errors.push(line));
  const ended = new Promise<number | null>((resolve, reject) =>
    child.once("error", reject).once("close", resolve),
  );
  const entries = new Map<string, TreeEntry>();
  for await (const line of createInterface({ input: child.stdout })) {
    const entry = entrySchema.parse(JSON.parse(line));
    entries.set(entry.path, entry);
  }
  if ((await ended) !== 0)
    throw new PlatformError("unavailable", `cannot list ${directory}: ${errors.join("; ")}`);
  return entries;
}

/** Names of files that have several, as sorted groups. */
function linkGroups(entries: Map<string, TreeEntry>): string[][] {
  const groups = new Map<number, string[]>();
  for (const { path, inode, kind } of entries.values())
    if (kind !== "directory") groups.set(inode, [...(groups.get(inode) ?? []), path]);
  return [...groups.values()]
    .filter(({ length }) => length > 1)
    .map((names) => names.sort())
    .sort();
}
