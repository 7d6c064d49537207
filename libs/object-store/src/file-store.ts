// A plain directory as a bucket. Keys are relative paths, so any tool can read and place files.
//   F1. An object appears whole or not at all: bytes go to a temporary file, are flushed, then linked or renamed.
//   F2. `ifNoneMatch` is link(2), which one of any number of writers wins. Every other change of a name happens
//       under one lock of the directory, so `ifMatch` compares and replaces in one step for all processes.
//   F3. A reader holds an open file, which a replacement does not touch: one read never mixes two objects.
// The ETag is inode, size and mtime: a replaced object is another inode, and other tools' edits change the mtime.
// Temporary files and the lock live in a reserved folder; what a killed process left there goes after a day.
import { createHash, randomUUID } from "node:crypto";
import type { BigIntStats } from "node:fs";
import { linkSync, renameSync, rmSync, statSync } from "node:fs";
import { mkdir, open, readdir, rm, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { listDirectory } from "./file-list.ts";
import { FileLock } from "./file-lock.ts";
import { infoOf, readChunks, readFully, writeFully } from "./file-object.ts";

import { checkKey, RESERVED_NAME } from "./keys.ts";
import { GET_BYTES_MAX_DEFAULT, throwIfAborted, tooLarge } from "./limits.ts";
import { checkRange, resolveRange } from "./ranges.ts";
import type {
  BytePlace,
  ByteSource,
  ObjectInfo,
  ObjectStore,
  PutBody,
  PutOptions,
  ReadOptions,
} from "./store.ts";

const LEFTOVER_AGE_MS = 24 * 3600 * 1000;
/** A folder may be removed by a concurrent delete between our mkdir and our rename. */
const COMMIT_ATTEMPTS_MAX = 10;

/** Opens a directory as a store. It is created by the first `put`. */
export function createFileStore(uri: string, directory: string): ObjectStore {
  return new FileStore(uri, directory);
}

class FileStore implements ObjectStore {
  readonly uri: string;
  readonly writable = true;
  readonly #root: string;
  readonly #reserved: string;
  readonly #lock: FileLock;
  #prepared: Promise<void> | undefined;

  constructor(uri: string, root: string) {
    this.uri = uri;
    this.#root = root;
    this.#reserved = join(root, RESERVED_NAME);
    this.#lock = new FileLock(join(this.#reserved, "lock"));
  }

  async head(key: string): Promise<ObjectInfo | undefined> {
    const stats = await stat(this.#path(key), { bigint: true }).catch(absent);
    return stats?.isFile() ? infoOf(key, stats) : undefined;
  }

  async get(key: string, options: ReadOptions & { bytesMax?: number } = {}) {
    const { file, info, offset, length } = await this.#openPart(key, options);
    try {
      const bytesMax = options.bytesMax ?? GET_BYTES_MAX_DEFAULT;
      if (length > bytesMax) {
        throw tooLarge(key, length, bytesMax);
      }
      const bytes = new Uint8Array(length);
      await readFully(file, bytes, offset, key);
      return { info, offset, bytes };
    } finally {
      await file.close();
    }
  }

  async stream(key: string, options: ReadOptions = {}) {
    const { file, info, offset, length } = await this.#openPart(key, options);
    return { info, offset, length, body: readChunks({ file, offset, length, key, signal: options.signal }) };
  }

  async put(key: string, body: PutBody, options: PutOptions = {}): Promise<ObjectInfo> {
    const path = this.#path(key);
    await this.#prepare();
    const temporary = join(this.#reserved, `put-${process.pid}-${randomUUID()}`);
    try {
      await writeFlushed(temporary, body, options);
      throwIfAborted(options.signal);
      return infoOf(key, await this.#commit(key, temporary, path, options));
    } catch (thrown) {
      throw toPlatformError(thrown);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  list = (options: Parameters<ObjectStore["list"]>[0] = {}) => listDirectory(this.#root, options);

  async delete(key: string, options: { ifMatch?: string } = {}): Promise<void> {
    const path = this.#path(key);
    if ((await stat(this.#root).catch(absent)) === undefined) {
      if (options.ifMatch !== undefined) throw preconditionFailed(key, "is gone");
      return;
    }
    await this.#prepare();
    await this.#lock.run(() => {
      checkMatch(key, path, options.ifMatch);
      rmSync(path, { force: true });
    });
    await this.#removeEmptyFolders(dirname(path));
  }

  async locate(key: string): Promise<ByteSource> {
    const info = await this.head(key);
    if (info === undefined) throw new PlatformError("notFound", `no object ${key} in ${this.uri}`);
    return { kind: "file", path: this.#path(key), info };
  }

  async place(key: string): Promise<BytePlace> {
    return { kind: "file", path: this.#path(key) };
  }

  async close(): Promise<void> {
    this.#lock.close();
  }

  #path(key: string): string {
    checkKey(key);
    return join(this.#root, key);
  }

  async #openPart(key: string, { range, ifMatch, signal }: ReadOptions) {
    checkRange(range);
    throwIfAborted(signal);
    const file = await open(this.#path(key), "r").catch((error: NodeJS.ErrnoException) => {
      if (absent(error) === undefined) {
        throw new PlatformError("notFound", `no object ${key} in ${this.uri}`, { cause: error });
      }
    });
    if (file === undefined) throw new PlatformError("notFound", `no object ${key} in ${this.uri}`);
    try {
      const stats = await file.stat({ bigint: true });
      if (!stats.isFile()) throw new PlatformError("notFound", `${key} is not an object`);
      const info = infoOf(key, stats);
      if (ifMatch !== undefined && ifMatch !== info.etag) throw preconditionFailed(key, "was replaced");
      return { file, info, ...resolveRange(range, info.size) };
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async #commit(key: string, temporary: string, path: string, options: PutOptions): Promise<BigIntStats> {
    for (let attempt = 1; ; attempt++) {
      try {
        await mkdir(dirname(path), { recursive: true });
        if (options.ifNoneMatch !== undefined) linkSync(temporary, path);
        else {
          await this.#lock.run(() => {
            checkMatch(key, path, options.ifMatch);
            renameSync(temporary, path);
          });
        }
        const stats = statSync(path, { bigint: true });
        await flushFolder(dirname(path));
        return stats;
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code;
        if (code === "ENOENT" && attempt < COMMIT_ATTEMPTS_MAX) continue;
        if (code === "EEXIST" && options.ifNoneMatch !== undefined && statSync(path).isFile()) {
          throw preconditionFailed(key, "exists already");
        }
        if (code === "EISDIR" || code === "ENOTDIR" || code === "EEXIST") throw nested(key, error);
        throw error;
      }
    }
  }

  /** Creates the reserved folder once, and clears what killed processes left in it. */
  #prepare(): Promise<void> {
    this.#prepared ??= (async () => {
      await mkdir(this.#reserved, { recursive: true });
      const now = Date.now();
      for (const name of await readdir(this.#reserved)) {
        if (!name.startsWith("put-")) continue;
        const path = join(this.#reserved, name);
        const stats = await stat(path).catch(absent);
        if (stats !== undefined && now - stats.mtimeMs > LEFTOVER_AGE_MS) await unlink(path).catch(absent);
      }
    })().catch((error: unknown) => {
      this.#prepared = undefined;
      throw toPlatformError(error);
    });
    return this.#prepared;
  }

  async #removeEmptyFolders(folder: string): Promise<void> {
    for (let current = folder; current.startsWith(`${this.#root}/`); current = dirname(current)) {
      try {
        await rmdir(current);
      } catch {
        return; // not empty, or somebody else was quicker
      }
    }
  }
}

function checkMatch(key: string, path: string, ifMatch: string | undefined): void {
  if (ifMatch === undefined) return;
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stats?.isFile()) throw preconditionFailed(key, "is gone");
  if (infoOf(key, stats).etag !== ifMatch) throw preconditionFailed(key, "was replaced");
}

async function writeFlushed(path: string, body: PutBody, options: PutOptions): Promise<void> {
  const file = await open(path, "wx");
  try {
    const hash = options.sha256 === undefined ? undefined : createHash("sha256");
    for await (const chunk of chunksOf(body)) {
      throwIfAborted(options.signal);
      hash?.update(chunk);
      await writeFully(file, chunk);
    }
    if (hash !== undefined && hash.digest("hex") !== options.sha256) {
      throw new PlatformError("corrupt", "the bytes do not have the promised SHA-256");
    }
    await file.datasync();
  } finally {
    await file.close();
  }
}

async function* chunksOf(body: PutBody): AsyncGenerator<Uint8Array> {
  if (typeof body === "string") yield Buffer.from(body);
  else if (body instanceof Uint8Array) yield body;
  else yield* body;
}

async function flushFolder(path: string): Promise<void> {
  const folder = await open(path, "r").catch(absent);
  if (folder === undefined) return; // a concurrent delete took the object and its folder
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Undefined for "there is no such path"; anything else is thrown on. */
function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
  throw toPlatformError(error);
}

function preconditionFailed(key: string, what: string): PlatformError {
  return new PlatformError("preconditionFailed", `${key} ${what}`, {
    remedy: "Somebody else was first: read it again, then decide.",
  });
}

function nested(key: string, cause: unknown): PlatformError {
  return new PlatformError("conflict", `${key} is a folder of other keys, or lies under an object`, {
    cause,
    remedy: "In a directory a key cannot be both an object and a folder: choose another key.",
  });
}
