// A gzip stream uncompressed by native code into a few buffers in turn, ahead of the caller. Threads are shared with those that
// compress: what comes next must be ready when they have worked off everything that was before it in the queue.
import type { Gunzip } from "@pilotlight/codec";

const NOTHING = Buffer.alloc(0);
/** One is with the caller, the others are full or being filled. */
const BUFFERS = 8;

/** A piece is the caller's until the next one is asked for. `onDigest` is told at the end. Throws what stream and source throw. */
export async function* gunzipped(
  gunzip: Gunzip,
  source: AsyncIterable<Buffer>,
  pieceBytes: number,
  onDigest?: (digest: string) => void,
): AsyncGenerator<Buffer> {
  const input = source[Symbol.asyncIterator]();
  let piece: Buffer | undefined;
  let from = 0;
  let over = false;
  /** Less than the buffer holds: the input is over. */
  const fill = async (output: Buffer): Promise<Buffer> => {
    let at = 0;
    while (at < output.length && !over) {
      if (piece === undefined) {
        const next = await input.next();
        piece = next.done === true ? undefined : next.value;
        from = 0;
      }
      const { read, written } = await gunzip.step(piece ?? NOTHING, from, output, at);
      at += written;
      from += read;
      // What was taken may still have more to give than there was room for.
      if (piece === undefined && written === 0) over = true;
      if (from === piece?.length) piece = undefined;
    }
    return output.subarray(0, at);
  };
  const coming: { buffer: Buffer; filled: Promise<Buffer> }[] = [];
  let last: Promise<Buffer> = Promise.resolve(NOTHING);
  const start = (buffer: Buffer): void => {
    last = last.then(() => fill(buffer));
    // Waited for in its turn, or below.
    last.catch(() => undefined);
    coming.push({ buffer, filled: last });
  };
  for (let i = 0; i < BUFFERS; i++) start(Buffer.allocUnsafeSlow(pieceBytes));
  try {
    for (let next = coming.shift(); next !== undefined; next = coming.shift()) {
      const filled = await next.filled;
      if (filled.length > 0) yield filled;
      if (filled.length < pieceBytes) break;
      start(next.buffer);
    }
    onDigest?.(`sha256:${gunzip.finish().toString("hex")}`);
  } finally {
    over = true;
    // Native code has its hands on the buffers until then.
    await last.catch(() => undefined);
    await input.return?.();
  }
}
