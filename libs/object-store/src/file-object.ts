// What a file says of itself as an object, and how its bytes are read.
import type { BigIntStats } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { throwIfAborted } from "./limits.ts";
import type { ObjectInfo } from "./store.ts";

const READ_CHUNK_BYTES = 1024 * 1024;
/** `FileHandle.writeFile` waits for a thread once for every 512 KiB: behind others' work that is most of the time it takes. */
const WRITE_CHUNK_BYTES = 8 << 20;

/** The ETag is inode, size and mtime. */
export function infoOf(key: string, stats: BigIntStats): ObjectInfo {
  return {
    key,
    size: Number(stats.size),
    etag: `${stats.ino.toString(16)}-${stats.size.toString(16)}-${stats.mtimeNs.toString(16)}`,
    modifiedAt: Number(stats.mtimeNs / 1_000_000n),
  };
}

/** The part in chunks; closes the file at the end, on an error and when the reader leaves early. */
export async function* readChunks(part: {
  file: FileHandle;
  offset: number;
  length: number;
  key: string;
  signal: AbortSignal | undefined;
}): AsyncGenerator<Uint8Array> {
  const { file, key } = part;
  try {
    const end = part.offset + part.length;
    for (let position = part.offset; position < end; position += READ_CHUNK_BYTES) {
      throwIfAborted(part.signal);
      const chunk = Buffer.allocUnsafeSlow(Math.min(READ_CHUNK_BYTES, end - position));
      await readFully(file, chunk, position, key);
      yield chunk;
    }
  } catch (thrown) {
    throw toPlatformError(thrown);
  } finally {
    await file.close();
  }
}

/** Fills `target` from `position`. A file that ends before is `corrupt`. */
export async function readFully(
  file: FileHandle,
  target: Uint8Array,
  position: number,
  key: string,
): Promise<void> {
  for (let done = 0; done < target.byteLength; ) {
    const { bytesRead } = await file.read(target, done, target.byteLength - done, position + done);
    if (bytesRead === 0) {
      throw new PlatformError("corrupt", `${key} became shorter while it was read`, {
        remedy: "Replace objects through the store, which never changes a file in place.",
      });
    }
    done += bytesRead;
  }
}

/** Writes all bytes where the file's position is. */
export async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const length = Math.min(bytes.byteLength - done, WRITE_CHUNK_BYTES);
    done += (await file.write(bytes, done, length)).bytesWritten;
  }
}
