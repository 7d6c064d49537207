// Folders as one compressed archive and back. Neither way is the other side trusted: the replica that fills a folder may put
// anything there and change it meanwhile, and an archive may come from anybody who can write to the bucket.
//   V1. Only plain files and folders are kept: others are left out when packing, and make an archive corrupt when unpacking.
//   V2. Packing follows no symbolic link: each name is opened below its folder's descriptor, without following.
//   V3. Unpacking writes only below its own new folder: names are normal, parents were made here, no file is written twice.
import { createHash } from "node:crypto";
import { createWriteStream, constants as fs } from "node:fs";
import { chmod, type FileHandle, mkdir, open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createZstdCompress, createZstdDecompress } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import {
  bytesOfText,
  normalisePath,
  parentOf,
  type TarEntry,
  TarReader,
  textOfBytes,
} from "@pilotlight/image-format";
import { type TarItem, writeTar } from "@pilotlight/oci";

/** Files and folders in one cache. */
const ENTRIES_MAX = 100_000;
const DEPTH_MAX = 64;
/** Headers and padding of an archive beside its files' bytes. */
const OVERHEAD_BYTES_MAX = 256 * 1024 ** 2;
/** Whoever the image's user is: the folder is seen by the replicas of one version alone. */
const FOLDER_MODE = 0o777;
const FILE_MODE = 0o666;
const OWNER_EXECUTES = 0o100;
const FOLDER_FLAGS = fs.O_RDONLY | fs.O_DIRECTORY | fs.O_NOFOLLOW;
/** Without O_NONBLOCK a pipe that took a file's place would hold the agent. */
const FILE_FLAGS = fs.O_RDONLY | fs.O_NOFOLLOW | fs.O_NONBLOCK;

export type Packed = {
  /** Of the files. */
  bytes: number;
  files: number;
  /** Hex, of the archive. */
  sha256: string;
};

/** Writes the folder's archive to a new file. Throws `resourceExhausted` when the folder holds more than `bytesMax`. */
export async function packFolder(folder: string, archive: string, bytesMax: number): Promise<Packed> {
  await using top = await open(folder, FOLDER_FLAGS);
  const items = await list(top, bytesMax);
  const hash = createHash("sha256");
  await pipeline(
    Readable.from(writeTar(items)),
    createZstdCompress(),
    observed((piece) => hash.update(piece)),
    createWriteStream(archive, { flags: "wx", mode: 0o600 }),
  );
  const sizes = items.flatMap((item) => (item.kind === "file" ? [item.size] : []));
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  return { bytes, files: sizes.length, sha256: hash.digest("hex") };
}

/** Changes whenever a file comes, goes or grows. */
export async function stateOfFolder(folder: string, bytesMax: number): Promise<string> {
  await using top = await open(folder, FOLDER_FLAGS);
  const items = await list(top, bytesMax);
  return items.map((item) => `${item.path} ${item.kind === "file" ? item.size : ""}`).join("\n");
}

/** What is in a folder now, by name. */
async function list(top: FileHandle, bytesMax: number): Promise<TarItem[]> {
  const items: TarItem[] = [];
  let bytes = 0;
  const look = async (directory: FileHandle, prefix: readonly string[]): Promise<void> => {
    if (prefix.length > DEPTH_MAX) throw tooMuch(`has folders deeper than ${DEPTH_MAX}`);
    const entries = await readdir(inside(directory), { withFileTypes: true });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (!entry.isDirectory() && !entry.isFile()) continue;
      if (items.length >= ENTRIES_MAX) throw tooMuch(`holds more than ${ENTRIES_MAX} files`);
      const names = [...prefix, entry.name];
      const path = names.join("/");
      if (entry.isDirectory()) {
        items.push({ kind: "directory", path, mode: FOLDER_MODE });
        await using inner = await open(inside(directory, entry.name), FOLDER_FLAGS);
        await look(inner, names);
        continue;
      }
      await using file = await open(inside(directory, entry.name), FILE_FLAGS);
      const { size, mode } = await file.stat();
      bytes += size;
      if (bytes > bytesMax) throw tooMuch(`holds more than ${bytesMax} bytes`);
      const executable = (mode & OWNER_EXECUTES) !== 0;
      const content = () => read(top, names);
      items.push({ kind: "file", path, size, mode: executable ? FOLDER_MODE : FILE_MODE, content });
    }
  };
  await look(top, []);
  return items;
}

/** A file below `top`, opened name by name (V2). */
async function* read(top: FileHandle, names: readonly string[]): AsyncGenerator<Buffer> {
  const opened: FileHandle[] = [];
  try {
    let at = top;
    for (const [i, name] of names.entries()) {
      at = await open(inside(at, name), i === names.length - 1 ? FILE_FLAGS : FOLDER_FLAGS);
      opened.push(at);
    }
    if (!(await at.stat()).isFile())
      throw new PlatformError("conflict", `${names.join("/")} is no file any more`);
    for await (const piece of at.createReadStream({ autoClose: false })) yield piece as Buffer;
  } finally {
    for (const handle of opened) await handle.close();
  }
}

/** The way to a name in an open folder; of the folder itself without one. */
const inside = (directory: FileHandle, name = ""): string => join(`/proc/self/fd/${directory.fd}`, name);

const observed = (see: (piece: Buffer) => void): Transform =>
  new Transform({
    transform(piece: Buffer, _encoding, done) {
      see(piece);
      done(null, piece);
    },
  });

export type ArchiveLimits = {
  /** Of all files together. */
  bytesMax: number;
  /** Hex, that the archive must have. */
  sha256: string;
};

/** Unpacks an archive into a new folder. Throws `corrupt`; what was unpacked until then must not be used. Gives the bytes. */
export async function unpackArchive(
  archive: AsyncIterable<Uint8Array>,
  folder: string,
  limits: ArchiveLimits,
  signal: AbortSignal,
): Promise<number> {
  await makeFolder(folder);
  const hash = createHash("sha256");
  const target = new Unpacking(folder, limits.bytesMax);
  await pipeline(
    Readable.from(archive),
    observed((piece) => hash.update(piece)),
    createZstdDecompress(),
    async (pieces: AsyncIterable<Buffer>) => {
      for await (const piece of pieces) await target.take(piece);
      await target.finish();
    },
    { signal },
  );
  const found = hash.digest("hex");
  if (found !== limits.sha256) throw corrupt(`its digest is ${found} instead of ${limits.sha256}`);
  return target.bytes;
}

/** A folder that programs under any account may fill, whatever this process's umask. */
export async function makeFolder(path: string | Buffer): Promise<void> {
  await mkdir(path);
  await chmod(path, FOLDER_MODE);
}

type Step = { kind: "begin"; entry: TarEntry } | { kind: "data"; piece: Buffer } | { kind: "end" };

/** An archive's entries on their way to the disk. */
class Unpacking {
  readonly #folder: string;
  readonly #bytesMax: number;
  readonly #folders = new Set([""]);
  readonly #steps: Step[] = [];
  readonly #reader = new TarReader({
    entry: (entry) => void this.#steps.push({ kind: "begin", entry }),
    data: (piece) => void this.#steps.push({ kind: "data", piece }),
    hole: () => {
      throw corrupt("it holds a sparse file, which no archive of ours does");
    },
    end: () => void this.#steps.push({ kind: "end" }),
  });
  #file: FileHandle | undefined;
  #entries = 0;
  #stated = 0;
  #taken = 0;

  constructor(folder: string, bytesMax: number) {
    this.#folder = folder;
    this.#bytesMax = bytesMax;
  }

  /** Of the files so far. */
  get bytes(): number {
    return this.#stated;
  }

  async take(piece: Buffer): Promise<void> {
    this.#taken += piece.length;
    if (this.#taken > this.#bytesMax + OVERHEAD_BYTES_MAX) throw corrupt("it is larger than it may be");
    try {
      for (let taken = 0; taken < piece.length; ) taken += this.#reader.push(piece, taken);
      for (const step of this.#steps.splice(0)) await this.#do(step);
    } catch (error) {
      await this.#file?.close();
      throw error;
    }
  }

  async finish(): Promise<void> {
    await this.#file?.close();
    this.#reader.finish();
  }

  async #do(step: Step): Promise<void> {
    switch (step.kind) {
      case "begin":
        return this.#begin(step.entry);
      case "data":
        await this.#file?.writeFile(step.piece);
        return;
      case "end":
        await this.#file?.close();
        this.#file = undefined;
        return;
      default:
        return step satisfies never;
    }
  }

  async #begin({ name, kind, size, mode }: TarEntry): Promise<void> {
    const path = normalisePath(name);
    const shown = JSON.stringify(textOfBytes(path));
    if (++this.#entries > ENTRIES_MAX) throw corrupt(`it holds more than ${ENTRIES_MAX} files`);
    if (path === "" || !this.#folders.has(parentOf(path))) throw corrupt(`${shown} has no folder`);
    const place = Buffer.from(`${bytesOfText(this.#folder)}/${path}`, "latin1");
    if (kind === "directory") {
      await makeFolder(place).catch(orTwice(shown));
      this.#folders.add(path);
      return;
    }
    if (kind !== "file") throw corrupt(`${shown} is a ${kind}`);
    this.#stated += size;
    if (this.#stated > this.#bytesMax) throw corrupt(`its files are larger than ${this.#bytesMax} bytes`);
    const flags = fs.O_WRONLY | fs.O_CREAT | fs.O_EXCL | fs.O_NOFOLLOW;
    this.#file = await open(place, flags, 0o600).catch(orTwice(shown));
    await this.#file.chmod((mode & OWNER_EXECUTES) !== 0 ? FOLDER_MODE : FILE_MODE);
  }
}

const orTwice =
  (shown: string) =>
  (error: NodeJS.ErrnoException): never => {
    throw error.code === "EEXIST" ? corrupt(`${shown} is in it twice`) : error;
  };

const corrupt = (why: string): PlatformError =>
  new PlatformError("corrupt", `the archive of a compile cache cannot be used: ${why}`, {
    remedy: "Nothing needs to be done: the next start writes a new one.",
  });

const tooMuch = (why: string): PlatformError =>
  new PlatformError("resourceExhausted", `a compile cache ${why}`, {
    field: "compileCache.sizeMaxMb",
    remedy: "Raise compileCache.sizeMaxMb, or name only the variables of caches that are worth keeping.",
  });
