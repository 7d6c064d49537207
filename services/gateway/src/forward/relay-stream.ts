// Streamed answers. Every event is read, because the gateway must know where an answer stands to continue it elsewhere: it
// keeps the tokens, takes the internal field off, and gives all parts of one answer the same id.
//
//   S1. What the client got is exactly what the tally holds: an event is counted before it is written, and whole.
//   S2. A stream ends with `[DONE]` or with an error event, never by silence (I1).
import { PlatformError } from "@pilotlight/errors";
import { encodeSse, SSE_DONE, SseDecoder, type StreamChunk, StreamTally } from "@pilotlight/openai";
import type { UpstreamCall } from "../adapters/upstream.ts";
import type { Exchange } from "./exchange.ts";
import type { Outcome } from "./outcome.ts";

export type StreamLimits = {
  firstTokenTimeoutMs: number;
  streamIdleTimeoutMs: number;
  continuationTokensMax: number;
};

type StreamEnd = Extract<Outcome, { kind: "done" | "failed" }>;

/** One event of a stream: answers with hundreds of alternatives per token stay below this. */
const EVENT_LENGTH_MAX = 4 * 1024 * 1024;

/** How far an answer is, over all replicas that take part in it. */
export class StreamProgress {
  readonly tally: StreamTally;
  #tokens = 0;
  #promptTokens: number | null = null;
  #usageSent = false;
  #last: StreamChunk | null = null;

  constructor(limits: StreamLimits) {
    this.tally = new StreamTally({ tokensMax: limits.continuationTokensMax });
  }

  get tokens(): number {
    return this.#tokens;
  }

  get promptTokens(): number {
    return this.#promptTokens ?? 0;
  }

  /**
   * The events as the client gets them, and whether the stream ends with them. What stands before an error was counted, so
   * it must be sent (S1).
   */
  take(payloads: readonly string[]): { text: string; end: StreamEnd | null } {
    let text = "";
    for (const payload of payloads) {
      if (payload === "[DONE]") return { text: text + SSE_DONE, end: { kind: "done" } };
      const event = parseEvent(payload);
      if (event.kind !== "chunk") return { text, end: event };
      const visible = this.#takeChunk(event.chunk);
      if (visible !== null) text += encodeSse(visible);
    }
    return { text, end: null };
  }

  /** What is still missing of an answer whose last token was sent. */
  closing(wantsUsage: boolean): string {
    if (!wantsUsage || this.#usageSent || this.#promptTokens === null || this.#last === null) return SSE_DONE;
    const { id, object, created, model } = this.#last;
    const usage = {
      prompt_tokens: this.#promptTokens,
      completion_tokens: this.#tokens,
      total_tokens: this.#promptTokens + this.#tokens,
    };
    return encodeSse({ id, object, created, model, choices: [], usage }) + SSE_DONE;
  }

  #takeChunk(chunk: StreamChunk): StreamChunk | null {
    const { pilotlight, usage } = chunk;
    if (pilotlight !== undefined) {
      this.#tokens += pilotlight.token_ids.length;
      if (typeof pilotlight.prompt_tokens === "number") this.#promptTokens = pilotlight.prompt_tokens;
    }
    if (usage != null) {
      this.#usageSent = true;
      this.#promptTokens = usage.prompt_tokens;
      this.#tokens = usage.completion_tokens;
    }
    const visible = this.tally.take(chunk);
    this.#last = visible ?? this.#last;
    return visible;
  }
}

/** Relays a stream whose head has come. Throws what the call throws when it breaks. */
export async function relayStream(
  exchange: Exchange,
  call: UpstreamCall,
  progress: StreamProgress,
  limits: StreamLimits,
): Promise<Outcome> {
  const { reply } = exchange;
  const decoder = new SseDecoder({ eventLengthMax: EVENT_LENGTH_MAX });
  const tokensBefore = progress.tokens;
  for (;;) {
    const hasBegun = progress.tokens > tokensBefore;
    const bytes = await call.next(hasBegun ? limits.streamIdleTimeoutMs : limits.firstTokenTimeoutMs);
    if (bytes === null)
      return broken(new PlatformError("unavailable", "the replica ended its stream too early"));
    const { text, end } = progress.take(decoder.push(bytes));
    if (text !== "") {
      if (reply.headSentAt === null) reply.beginStream(exchange.origin);
      exchange.firstByteAt ??= Date.now();
      await reply.write(text);
    }
    if (end?.kind === "done") reply.end();
    if (end !== null) return end;
  }
}

const broken = (error: PlatformError): Outcome => ({ kind: "broken", error });
const corrupt = (message: string, cause?: unknown): StreamEnd => ({
  kind: "failed",
  error: new PlatformError("corrupt", message, { cause }),
});

function parseEvent(payload: string): { kind: "chunk"; chunk: StreamChunk } | StreamEnd {
  let value: unknown;
  try {
    value = JSON.parse(payload);
  } catch (cause) {
    return corrupt("an event of the replica's stream is not JSON", cause);
  }
  const { choices, error } = (value ?? {}) as { choices?: unknown; error?: { message?: unknown } };
  if (error !== undefined) {
    const message = `the replica failed: ${String(error?.message ?? "no reason")}`;
    return { kind: "failed", error: new PlatformError("unavailable", message) };
  }
  if (!Array.isArray(choices)) return corrupt("an event of the replica's stream is not a chunk of an answer");
  return { kind: "chunk", chunk: value as StreamChunk };
}
