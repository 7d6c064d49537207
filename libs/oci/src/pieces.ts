// The pieces that layers travel in. Every step of a conversion costs something for each piece, so pieces are large, and their
// buffers are used again: a new one for each made V8 collect garbage for an eighth of a conversion.
import { open } from "node:fs/promises";
import { forgetCached } from "@pilotlight/codec";

export const PIECE_BYTES = 512 << 10;
/** How much of a file that is read stays in the page cache: more than the kernel reads ahead. */
const CACHED_BYTES = 8 << 20;

/**
 * A file's content, which is not read again soon: its place in the page cache goes to what is read next. Filling memory that was
 * never touched costs a virtual machine up to ten times as much as reading. The next piece is read while the caller has one; a
 * piece is the caller's until the next one is asked for.
 */
export async function* filePieces(path: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
  const file = await open(path);
  let filling = Buffer.allocUnsafeSlow(PIECE_BYTES);
  let reading = Buffer.allocUnsafeSlow(PIECE_BYTES);
  const fill = () => {
    const read = file.read(filling, 0, PIECE_BYTES, null);
    // Waited for in the next turn, or below.
    read.catch(() => undefined);
    return read;
  };
  let coming = fill();
  let forgotten = 0;
  let position = 0;
  const forget = () => {
    forgetCached(file.fd, forgotten, position - forgotten);
    forgotten = position;
  };
  try {
    while (true) {
      const { bytesRead } = await coming;
      signal?.throwIfAborted();
      position += bytesRead;
      if (position - forgotten >= CACHED_BYTES) forget();
      if (bytesRead === 0) return;
      [reading, filling] = [filling, reading];
      coming = fill();
      yield reading.subarray(0, bytesRead);
    }
  } finally {
    await coming.catch(() => undefined);
    if (position > forgotten) forget();
    await file.close();
  }
}

/** Puts small pieces together, as networks bring them. A piece is the caller's until the next one is asked for. */
export async function* inPieces(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let buffer: Buffer | undefined;
  let length = 0;
  for await (const piece of source) {
    if (length === 0 && piece.length >= PIECE_BYTES) {
      yield piece;
      continue;
    }
    for (let from = 0; from < piece.length; ) {
      buffer ??= Buffer.allocUnsafeSlow(PIECE_BYTES);
      const taken = Math.min(piece.length - from, PIECE_BYTES - length);
      buffer.set(piece.subarray(from, from + taken), length);
      from += taken;
      length += taken;
      if (length < PIECE_BYTES) continue;
      length = 0;
      yield buffer;
    }
  }
  if (buffer !== undefined && length > 0) yield buffer.subarray(0, length);
}

/** Each piece in a buffer of its own, for readers that run ahead. */
export async function* ownPieces(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const piece of source) yield Buffer.from(piece);
}
