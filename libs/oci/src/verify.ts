// Bytes that are checked while they pass: size at every piece, digest at the end.
import { createSha256 } from "@pilotlight/codec";
import { PlatformError } from "@pilotlight/errors";

/**
 * Passes `source` on, hashing each piece while the caller works on it; throws `corrupt` when it is not the promised content. The
 * last piece comes before the verdict. A piece is the caller's until the next one is asked for.
 */
export async function* verified(
  source: AsyncIterable<Uint8Array>,
  expected: { digest: string; size: number },
  what: string,
): AsyncGenerator<Buffer> {
  const hash = createSha256();
  let bytes = 0;
  for await (const piece of source) {
    bytes += piece.length;
    if (bytes > expected.size) throw mismatch(what, `it is longer than ${expected.size} bytes`);
    const buffer = Buffer.isBuffer(piece)
      ? piece
      : Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
    const hashed = hash.update(buffer);
    yield buffer;
    await hashed;
  }
  if (bytes !== expected.size) throw mismatch(what, `it ended after ${bytes} of ${expected.size} bytes`);
  const digest = `sha256:${hash.digest().toString("hex")}`;
  if (digest !== expected.digest) throw mismatch(what, `its digest is ${digest}`);
}

function mismatch(what: string, why: string): PlatformError {
  return new PlatformError("corrupt", `${what} is not what the manifest promises: ${why}`, {
    remedy: "The registry or a proxy in between delivers damaged content; push the image again.",
  });
}
