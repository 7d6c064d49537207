// A gzip stream uncompressed by native code into two buffers in turn: one is filled while the caller reads the other.
import type { Gunzip } from "@pilotlight/codec";

const NOTHING = Buffer.alloc(0);

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
  let left = false;
  /** Less than the buffer holds: the input is over. */
  const fill = async (output: Buffer): Promise<Buffer> => {
    let at = 0;
    while (at < output.length && !left) {
      if (piece === undefined) {
        const next = await input.next();
        piece = next.done === true ? undefined : next.value;
        from = 0;
      }
      const { read, written } = await gunzip.step(piece ?? NOTHING, from, output, at);
      at += written;
      from += read;
      // What was taken may still have more to give than there was room for.
      if (piece === undefined && written === 0) break;
      if (from === piece?.length) piece = undefined;
    }
    return output.subarray(0, at);
  };
  let filling = Buffer.allocUnsafeSlow(pieceBytes);
  let reading = Buffer.allocUnsafeSlow(pieceBytes);
  let coming = fill(filling);
  try {
    while (true) {
      const filled = await coming;
      [reading, filling] = [filling, reading];
      const ended = filled.length < pieceBytes;
      if (!ended) {
        coming = fill(filling);
        // Waited for in the next turn, or below.
        coming.catch(() => undefined);
      }
      if (filled.length > 0) yield filled;
      if (ended) break;
    }
    onDigest?.(`sha256:${gunzip.finish().toString("hex")}`);
  } finally {
    left = true;
    // Native code has its hands on the buffers until then.
    await coming.catch(() => undefined);
    await input.return?.();
  }
}
