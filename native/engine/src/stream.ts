// The chunks of one answer between the addon's events and the consumer's loop. Chunks that wait are merged, so a slow
// consumer gets fewer, larger ones.

import type { PlatformError } from "@pilotlight/errors";
import type { GenerateChunk } from "./types.ts";

export class ChunkStream {
  #waiting: GenerateChunk | undefined;
  #error: PlatformError | undefined;
  #wake: (() => void) | undefined;

  push(chunk: GenerateChunk): void {
    this.#waiting = this.#waiting === undefined ? chunk : merge(this.#waiting, chunk);
    this.#wake?.();
  }

  /** What was pushed before is still read; then `next` rejects. */
  fail(error: PlatformError): void {
    this.#error = error;
    this.#wake?.();
  }

  /** The next chunk; one call at a time. */
  async next(): Promise<GenerateChunk> {
    while (this.#waiting === undefined) {
      if (this.#error !== undefined) throw this.#error;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    const chunk = this.#waiting;
    this.#waiting = undefined;
    return chunk;
  }
}

function merge(a: GenerateChunk, b: GenerateChunk): GenerateChunk {
  return {
    tokenIds: [...a.tokenIds, ...b.tokenIds],
    text: a.text + b.text,
    logprobs:
      a.logprobs === null && b.logprobs === null ? null : [...(a.logprobs ?? []), ...(b.logprobs ?? [])],
    finishReason: b.finishReason,
    usage: b.usage,
  };
}
