// The full digest of what was loaded, taken in the background: the blocks' checksums that a load waits for are 32 bits wide and find
// accidents; this one finds everything. Read slowly, because whoever got the weights has the processors first.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Segment } from "./ports.ts";
import type { WeightFile } from "./repository.ts";

/** Hashed at once: less than a millisecond of this process's only thread. */
const READ_BYTES = 512 * 1024;
const MS_PER_S = 1000;
const SHA256 = /^[0-9a-f]{64}$/;

/**
 * What a file's SHA-256 must be: recorded when the model was added, or what a model hub calls its large files. Undefined where nobody
 * says.
 */
export function knownSha256(
  source: string,
  { digest, etag }: Pick<WeightFile, "digest" | "etag">,
): string | undefined {
  if (digest !== undefined) return digest.sha256;
  return source.startsWith("hf://") && SHA256.test(etag) ? etag : undefined;
}

/** SHA-256 of a segment's bytes, read at most this fast. Rejects when the segment is gone before it was opened. */
export async function segmentSha256(
  { path, base, bytes }: Pick<Segment, "path" | "base" | "bytes">,
  { bytesPerSecond, signal }: { bytesPerSecond: number; signal: AbortSignal },
): Promise<string> {
  const hash = createHash("sha256");
  if (bytes === 0) return hash.digest("hex");
  const startedAt = performance.now();
  let done = 0;
  const range = { start: base, end: base + bytes - 1, highWaterMark: READ_BYTES, signal };
  for await (const piece of createReadStream(path, range)) {
    hash.update(piece);
    done += piece.byteLength;
    const aheadMs = (done / bytesPerSecond) * MS_PER_S - (performance.now() - startedAt);
    if (aheadMs > 0) await sleep(aheadMs, undefined, { signal });
  }
  return hash.digest("hex");
}
