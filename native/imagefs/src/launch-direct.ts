// Running a program of an extracted tree where no namespaces are to be had: through the tree's own dynamic loader and
// libraries, so that the machine's C library does not matter. Absolute paths that exist only in the tree are rewritten in
// the arguments; a program that opens others by itself will not find them.
import { access, open, readlink, realpath, stat } from "node:fs/promises";
import { join, normalize } from "node:path";
import { PlatformError } from "@pilotlight/errors";

export type DirectCommand = {
  program: string;
  argv0: string;
  args: string[];
  cwd: string;
  env: Record<string, string>;
};

const LIBRARY_DIRECTORIES = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"];
const HEAD_BYTES = 4096;
const INTERPRETERS_MAX = 4;

/** The command that runs `args` of the image at `root`. Throws `notFound` or `unsupported`. */
export async function directCommand(
  root: string,
  args: readonly string[],
  env: Record<string, string>,
  cwd: string,
): Promise<DirectCommand> {
  const [name = "", ...rest] = args;
  let program = await findProgram(root, name, env.PATH ?? "");
  let programArgs = await Promise.all(rest.map((arg) => rewrite(root, arg)));
  for (let depth = 0; ; depth++) {
    const head = await readHead(program);
    const interpreter = /^#!\s*(\S+)(?:[ \t]+([^\n]*\S))?\s*\n/.exec(head.toString("latin1"));
    if (interpreter === null) break;
    if (depth === INTERPRETERS_MAX) throw new PlatformError("unsupported", `${name}: too many interpreters`);
    const [, path = "", argument] = interpreter;
    const isEnv = path.endsWith("/env") && argument !== undefined;
    programArgs = [...(isEnv || argument === undefined ? [] : [argument]), program, ...programArgs];
    program = await findProgram(root, isEnv ? argument : path, env.PATH ?? "");
  }
  const workDir = join(root, cwd);
  const cwdThere = (await stat(workDir).catch(() => undefined))?.isDirectory() === true;
  const place = { argv0: name, cwd: cwdThere ? workDir : root, env };
  const loader = loaderOf(await readHead(program));
  if (loader === undefined) return { ...place, program, args: programArgs };
  const libraries = LIBRARY_DIRECTORIES.flatMap((directory) => [
    directory,
    join(directory, `${process.arch === "x64" ? "x86_64" : "aarch64"}-linux-gnu`),
  ]);
  const path = (
    await Promise.all(libraries.map((directory) => resolveIn(root, directory).catch(() => undefined)))
  ).filter((found) => found !== undefined);
  return {
    ...place,
    program: await resolveIn(root, loader),
    args: ["--library-path", [...new Set(path)].join(":"), "--argv0", name, program, ...programArgs],
  };
}

async function rewrite(root: string, arg: string): Promise<string> {
  if (!arg.startsWith("/") || (await exists(arg))) return arg;
  return resolveIn(root, arg).catch(() => arg);
}

async function findProgram(root: string, name: string, path: string): Promise<string> {
  const candidates = name.includes("/") ? [name] : path.split(":").map((directory) => join(directory, name));
  for (const candidate of candidates) {
    const found = await resolveIn(root, candidate).catch(() => undefined);
    if (found !== undefined && ((await stat(found)).mode & 0o111) !== 0) return found;
  }
  throw new PlatformError("notFound", `${name} is not in the image`, {
    remedy: "Check the image's entrypoint, command and PATH.",
  });
}

/** A path of the image as a path of this machine: links are followed within the tree. Throws when it is not there. */
async function resolveIn(root: string, path: string): Promise<string> {
  const base = await realpath(root);
  let parts = normalize(`/${path}`).split("/").filter(Boolean);
  let at: string[] = [];
  for (let hops = 0; parts.length > 0; ) {
    const [part = "", ...rest] = parts;
    parts = rest;
    const target = await readlink(join(base, ...at, part)).catch(() => undefined);
    if (target === undefined) {
      at.push(part);
      continue;
    }
    if (++hops > 40) throw new PlatformError("corrupt", `${path}: too many symbolic links`);
    const from = target.startsWith("/") ? "/" : `/${at.join("/")}`;
    parts = [...normalize(join(from, target)).split("/").filter(Boolean), ...parts];
    at = [];
  }
  const found = join(base, ...at);
  await access(found);
  return found;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function readHead(path: string): Promise<Buffer> {
  const handle = await open(path);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

/** The PT_INTERP of a 64-bit little-endian ELF program; undefined for static ones and for what is no ELF. */
function loaderOf(head: Buffer): string | undefined {
  if (head.length < 64 || head.toString("latin1", 0, 4) !== "\x7fELF" || head[4] !== 2 || head[5] !== 1)
    return undefined;
  const tableAt = Number(head.readBigUInt64LE(32));
  const entryBytes = head.readUInt16LE(54);
  const count = head.readUInt16LE(56);
  for (let i = 0; i < count; i++) {
    const at = tableAt + i * entryBytes;
    if (at + 56 > head.length || head.readUInt32LE(at) !== 3) continue;
    const offset = Number(head.readBigUInt64LE(at + 8));
    const size = Number(head.readBigUInt64LE(at + 32));
    return head.toString("latin1", offset, offset + size).replace(/\0.*$/s, "");
  }
  return undefined;
}
