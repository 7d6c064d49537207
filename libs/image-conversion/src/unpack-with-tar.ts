// An image's files made by GNU tar, layer over layer, without any of our own code for archives: what mounts are compared with.
// Needs root, for owners and devices, and room for the whole image.
import { spawn } from "node:child_process";
import { lstatSync, readdirSync, rmSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { PlatformError } from "@pilotlight/errors";
import { decompressed, type OpenedImage } from "@pilotlight/oci";

/** What GNU tar cannot know, path by path (relative, bytes as latin1). */
export type Unkept = {
  /** Directories that a layer writes into without naming them: unpacking changes their time. */
  times: ReadonlySet<string>;
  /** Directories that several layers name: GNU tar keeps the attributes of all, an image those of the last. */
  attributes: ReadonlySet<string>;
};

type Names = { path: string; isDirectory: boolean }[];

const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";

/** Unpacks into `directory`, which is made. Layers are read twice: for names, then for content. */
export async function unpackWithTar(
  image: OpenedImage,
  directory: string,
  onLayer: (done: number, total: number) => void = () => undefined,
  signal?: AbortSignal,
): Promise<Unkept> {
  await mkdir(directory, { recursive: true });
  const times = new Set<string>();
  const attributes = new Set<string>();
  const directories = new Set<string>();
  for (const [i, layer] of image.layers.entries()) {
    onLayer(i, image.layers.length);
    // The other way of everything that the converter does.
    const content = () =>
      Readable.from(decompressed(image.layer(layer, signal), { native: false }), { objectMode: false });
    const names = parseNames(await tar(["-tv", "--quoting-style=escape"], content()));
    const named = new Set(names.map(({ path }) => path));
    for (const { path } of names) {
      for (let at = parentOf(path); ; at = parentOf(at)) {
        if (!named.has(at)) times.add(at);
        if (at === "") break;
      }
    }
    clear(directory, names);
    for (const { path, isDirectory } of names) {
      if (!isDirectory) continue;
      if (directories.has(path)) attributes.add(path);
      directories.add(path);
    }
    await tar(
      [
        "-x",
        "-p",
        "-C",
        directory,
        "--same-owner",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--xattrs-exclude=trusted.*",
        `--exclude=${WHITEOUT}*`,
        "--delay-directory-restore",
      ],
      content(),
    );
  }
  onLayer(image.layers.length, image.layers.length);
  return { times, attributes };
}

/**
 * Does what whiteouts say, and removes what tar would not replace: a directory by something else, or the reverse. Links of
 * lower layers in the way go first: nothing is ever removed or written through one, which might lead out of the directory.
 */
function clear(directory: string, names: Names): void {
  const at = (path: string) => Buffer.from(`${Buffer.from(directory).toString("latin1")}/${path}`, "latin1");
  const remove = (path: string) => rmSync(at(path), { recursive: true, force: true });
  for (const { path } of names) {
    const parts = path.split("/").slice(0, -1);
    for (let i = 1; i <= parts.length; i++) {
      const parent = at(parts.slice(0, i).join("/"));
      if (lstatSync(parent, { throwIfNoEntry: false })?.isSymbolicLink() === true) rmSync(parent);
    }
  }
  for (const { path } of names) {
    const base = path.slice(path.lastIndexOf("/") + 1);
    const parent = parentOf(path);
    const inside = parent === "" ? "" : `${parent}/`;
    if (base === OPAQUE) {
      if (kindAt(at(parent)) === "directory")
        for (const name of readdirSync(at(parent), { encoding: "buffer" }))
          remove(inside + name.toString("latin1"));
    } else if (base.startsWith(WHITEOUT)) {
      remove(inside + base.slice(WHITEOUT.length));
    }
  }
  for (const { path, isDirectory } of names) {
    const kind = path === "" ? undefined : kindAt(at(path));
    if (kind !== undefined && (kind === "directory") !== isDirectory) remove(path);
  }
}

function kindAt(path: Buffer): "directory" | "other" | undefined {
  const info = lstatSync(path, { throwIfNoEntry: false });
  if (info === undefined) return undefined;
  return info.isDirectory() ? "directory" : "other";
}

const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** Lines of `tar -tv`: `-rw-r--r-- 0/0  5 2026-01-01 00:00 ./path`, links with ` -> target` or ` link to target`. */
function parseNames(listing: string): Names {
  return listing
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const match = /^(.)\S+ \S+\s+\S+ \S+ \S+ (.*)$/.exec(line);
      if (match === null) throw new PlatformError("corrupt", `tar lists '${line}'`);
      const [, kind = "", rest = ""] = match;
      const name = kind === "l" ? before(rest, " -> ") : kind === "h" ? before(rest, " link to ") : rest;
      const path = unescaped(name)
        .split("/")
        .filter((part) => part !== "" && part !== ".")
        .join("/");
      return { path, isDirectory: kind === "d" };
    });
}

const before = (text: string, mark: string) => text.slice(0, Math.max(0, text.indexOf(mark)));

/** C-style escapes of GNU tar, to bytes as latin1. */
const unescaped = (text: string): string =>
  text.replace(/\\(?:([0-7]{3})|(.))/g, (_, octal?: string, letter?: string) =>
    octal === undefined
      ? (ESCAPES[letter ?? ""] ?? letter ?? "")
      : String.fromCharCode(Number.parseInt(octal, 8)),
  );

const ESCAPES: Record<string, string> = {
  n: "\n",
  t: "\t",
  r: "\r",
  a: "\x07",
  b: "\b",
  f: "\f",
  v: "\v",
  "0": "\0",
};

async function tar(args: readonly string[], input: Readable): Promise<string> {
  const child = spawn("tar", [...args, "--full-time", "-f", "-"], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
  });
  const output: Buffer[] = [];
  const errors: string[] = [];
  child.stdout.on("data", (piece: Buffer) => output.push(piece));
  child.stderr.on("data", (piece: Buffer) => errors.push(piece.toString("latin1")));
  const ended = new Promise<number | null>((resolve, reject) =>
    child.once("error", reject).once("close", resolve),
  );
  // tar stops reading at the end of the archive; what follows is of no interest, and no failure.
  const fed = pipeline(input, child.stdin).catch((error: NodeJS.ErrnoException) =>
    error.code === "EPIPE" ? undefined : error,
  );
  const [code, failure] = await Promise.all([ended, fed]);
  if (failure instanceof Error) throw failure;
  if (code !== 0)
    throw new PlatformError(
      "unavailable",
      `GNU tar ended with ${code}: ${errors.join("").trim().slice(0, 500)}`,
      {
        remedy: "Run as root, with GNU tar and room for the whole image.",
      },
    );
  return Buffer.concat(output).toString("latin1");
}
