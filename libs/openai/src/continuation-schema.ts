// The fields by which gateway and worker continue a broken stream. They never leave the platform.
import * as z from "zod";
import { OPENAI_LIMITS } from "./limits.ts";

/** In a request: what the client has already got of the answer. */
export const requestExtension = z.strictObject({
  /** Tokens of the answer so far: the worker takes them as generated, counts them and goes on behind them. */
  resume_token_ids: z.array(z.int().min(0).max(0xffff_ffff)).max(OPENAI_LIMITS.tokensPerInputMax),
  /**
   * Characters (UTF-16 code units) of the answer's text that were sent already. The tokens may spell more than that:
   * a stop sequence or half a character may have been held back.
   */
  resume_text_length: z.int().min(0),
});

/** In a chunk: the tokens that its text, or text still held back, comes from. */
export const chunkExtension = z.looseObject({ token_ids: z.array(z.int().min(0)) });

export type RequestExtension = z.output<typeof requestExtension>;
export type ChunkExtension = z.output<typeof chunkExtension>;
