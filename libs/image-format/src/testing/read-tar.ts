// What the tar reader makes of an archive, in memory.
import { PlatformError } from "@pilotlight/errors";
import { type TarEntry, TarReader } from "../tar/reader.ts";

export type ReadEntry = TarEntry & { content: Buffer };

/** More than any test stores: holes are refused by their size, as the converter refuses them. */
const CONTENT_BYTES_MAX = 64 << 20;

/** Reads an archive that comes in pieces of `pieceBytes`. Throws what the reader throws, and when a size is not kept. */
export function readTar(archive: Buffer, pieceBytes = 1000): ReadEntry[] {
  const entries: ReadEntry[] = [];
  let pieces: Buffer[] = [];
  const reader = new TarReader({
    entry: (entry) => {
      if (entry.size > CONTENT_BYTES_MAX)
        throw new PlatformError("resourceExhausted", "too large for a test");
      entries.push({ ...entry, content: Buffer.alloc(0) });
    },
    data: (piece) => pieces.push(Buffer.from(piece)),
    hole: (bytes) => pieces.push(Buffer.alloc(bytes)),
    end: () => {
      const last = entries.at(-1) as ReadEntry;
      last.content = Buffer.concat(pieces);
      pieces = [];
      if (last.content.length !== last.size) throw new Error(`${last.content.length} bytes of ${last.size}`);
    },
  });
  for (let at = 0; at < archive.length; at += pieceBytes) {
    const piece = archive.subarray(at, at + pieceBytes);
    for (let taken = 0; taken < piece.length; ) taken += reader.push(piece, taken);
  }
  reader.finish();
  return entries;
}
