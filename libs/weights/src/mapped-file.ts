// New files of shared memory, mapped so that the native mover receives bytes in place.
import { closeSync, fchownSync, ftruncateSync, openSync, rmSync } from "node:fs";
import type { MappedMemory, Mover } from "@pilotlight/streamer";

export type MappedFile = {
  path: string;
  descriptor: number;
  memory: MappedMemory;
  /** Ends writing: the mapping and the descriptor go, the file stays. */
  close(): void;
  /** The file goes too. */
  discard(): void;
};

type MappedFileOptions = {
  path: string;
  bytes: number;
  /** Only root can give files to a group; undefined: nobody else reads it. */
  readerGroupId: number | undefined;
  mover: Pick<Mover, "map">;
};

/** Makes the file, which must not exist. */
export function createMappedFile({ path, bytes, readerGroupId, mover }: MappedFileOptions): MappedFile {
  const descriptor = openSync(path, "wx+", 0o640);
  try {
    if (readerGroupId !== undefined) fchownSync(descriptor, process.getuid?.() ?? 0, readerGroupId);
    ftruncateSync(descriptor, bytes);
    const memory = mover.map(descriptor, bytes);
    const close = (): void => {
      memory.close();
      closeSync(descriptor);
    };
    const discard = (): void => {
      close();
      rmSync(path, { force: true });
    };
    return { path, descriptor, memory, close, discard };
  } catch (error) {
    closeSync(descriptor);
    rmSync(path, { force: true });
    throw error;
  }
}
