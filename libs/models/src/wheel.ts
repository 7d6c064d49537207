// Looks into a wheel (a zip archive): finds the model in it and reads its files without unpacking the rest.
import type { Readable } from "node:stream";
import { PlatformError } from "@pilotlight/errors";
import { type Entry, open, type ZipFile } from "yauzl";

const ENTRIES_MAX = 10_000;

export type WheelEntry = {
  /** Path in the archive. */
  path: string;
  bytes: number;
  open: () => AsyncIterable<Uint8Array>;
};

/** Calls `use` with the archive's files by path; the archive is closed after it. Damaged archives are `corrupt`. */
export async function withWheel<T>(
  path: string,
  use: (entries: Map<string, WheelEntry>) => Promise<T>,
): Promise<T> {
  const zip = await openZip(path);
  try {
    return await use(await listEntries(zip, path));
  } finally {
    zip.close();
  }
}

function openZip(path: string): Promise<ZipFile> {
  return new Promise((resolve, reject) => {
    open(path, { lazyEntries: true, autoClose: false }, (error, zip) => {
      if (error) reject(damaged(path, error));
      else resolve(zip);
    });
  });
}

function listEntries(zip: ZipFile, path: string): Promise<Map<string, WheelEntry>> {
  const entries = new Map<string, WheelEntry>();
  return new Promise((resolve, reject) => {
    zip.on("error", (error: Error) => reject(damaged(path, error)));
    zip.on("end", () => resolve(entries));
    zip.on("entry", (entry: Entry) => {
      if (entries.size >= ENTRIES_MAX) return reject(damaged(path, new Error("too many entries")));
      if (!entry.fileName.endsWith("/")) {
        entries.set(entry.fileName, {
          path: entry.fileName,
          bytes: entry.uncompressedSize,
          open: () => readEntry(zip, entry, path),
        });
      }
      zip.readEntry();
    });
    zip.readEntry();
  });
}

/** yauzl checks the size as it inflates; the wheel's own digest was checked before. */
async function* readEntry(zip: ZipFile, entry: Entry, path: string): AsyncGenerator<Uint8Array> {
  const stream = await new Promise<Readable>((resolve, reject) => {
    zip.openReadStream(entry, (error, stream) => {
      if (error) reject(damaged(path, error));
      else resolve(stream);
    });
  });
  for await (const chunk of stream) yield chunk as Uint8Array;
}

function damaged(path: string, cause: Error): PlatformError {
  return new PlatformError("corrupt", `${path} is no readable wheel: ${cause.message}`, { cause });
}
