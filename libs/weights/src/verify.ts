// Reads every byte of a repository's weights and compares it with what was recorded when the model was added. Without a record
// the bytes are only read: the format itself has no checksums, so a flipped bit cannot be found, and that is said.
import { createHash } from "node:crypto";
import type { ObjectStore } from "@pilotlight/object-store";
import { RangeChecker } from "./checksums.ts";
import type { Repository } from "./repository.ts";

export type VerifiedFile = {
  key: string;
  bytes: number;
  sha256: string;
  /** `unrecorded`: readable and well formed, but there is nothing to compare its bytes with. */
  verdict: "right" | "wrong" | "unrecorded";
};

/** File by file. Throws the store's errors; wrong bytes are a verdict. */
export async function* verifyWeights(
  store: ObjectStore,
  { weights }: Repository,
  options: { onBytes: (bytes: number) => void; signal: AbortSignal },
): AsyncGenerator<VerifiedFile> {
  for (const { key, etag, bytes, digest } of weights) {
    const { body } = await store.stream(key, { ifMatch: etag, signal: options.signal });
    const hash = createHash("sha256");
    const checker = digest === undefined ? undefined : new RangeChecker(key, digest.crc32, 0);
    let blocksRight = true;
    for await (const piece of body) {
      hash.update(piece);
      if (blocksRight) blocksRight = check(() => checker?.update(piece));
      options.onBytes(piece.byteLength);
    }
    if (blocksRight) blocksRight = check(() => checker?.finish());
    const sha256 = hash.digest("hex");
    const right = blocksRight && sha256 === digest?.sha256;
    yield { key, bytes, sha256, verdict: digest === undefined ? "unrecorded" : right ? "right" : "wrong" };
  }
}

function check(step: () => void): boolean {
  try {
    step();
    return true;
  } catch {
    return false;
  }
}
