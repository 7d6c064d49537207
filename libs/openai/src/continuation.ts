// Continuing a broken stream on another replica, from the tokens already sent.
//
// The worker names the tokens behind every chunk in `pilotlight.token_ids`. The gateway keeps them, takes the field off
// before the client sees the chunk, and when the replica goes away sends the same request to another one with
// `pilotlight: { resume_token_ids, resume_text_length }`. That worker takes the tokens as its own output so far
// (they count against max_tokens and in `usage`), decodes from there, and sends only text behind `resume_text_length`.
// The client sees one answer with one id.
import type { RequestExtension } from "./continuation-schema.ts";
import type { GeneratingRequest } from "./requests.ts";
import type { ChatCompletionChunk, CompletionChunk } from "./responses.ts";

export type StreamChunk = ChatCompletionChunk | CompletionChunk;

/** A worker's side: names the tokens behind a chunk. */
export function attachTokens<T extends StreamChunk>(chunk: T, tokenIds: readonly number[]): T {
  return { ...chunk, pilotlight: { token_ids: [...tokenIds] } };
}

/** The gateway's door: whatever a client puts into the internal field is not for the worker. */
export function withoutExtension<T extends { pilotlight?: unknown }>(message: T): Omit<T, "pilotlight"> {
  const { pilotlight: _internal, ...rest } = message;
  return rest;
}

/** The request that continues an answer elsewhere. */
export function resumeRequest<T extends GeneratingRequest>(request: T, extension: RequestExtension): T {
  return { ...request, pilotlight: extension };
}

export type StreamTallyOptions = {
  /** Tokens remembered at most; an answer that grows beyond cannot be continued. */
  tokensMax: number;
};

/** What the gateway remembers of one streamed answer, and the chunks as the client may see them. */
export class StreamTally {
  readonly #tokensMax: number;
  readonly #tokenIds: number[] = [];
  #textLength = 0;
  #first: { id: string; created: number } | null = null;
  #finished = false;
  #continuable = true;

  constructor(options: StreamTallyOptions) {
    this.#tokensMax = options.tokensMax;
  }

  /** Whether the answer's last choice has ended: then only `usage` and `[DONE]` are missing. */
  get finished(): boolean {
    return this.#finished;
  }

  /**
   * Takes in a chunk from a worker, and returns what the client gets: without the internal field, under the first
   * chunk's id; null when nothing is left of it (a second worker's opening chunk).
   */
  take<T extends StreamChunk>(chunk: T): T | null {
    const isResumed = this.#first !== null;
    this.#first ??= { id: chunk.id, created: chunk.created };
    this.#count(chunk);
    const visible = { ...withoutExtension(chunk), ...this.#first } as T;
    if (!isResumed || chunk.object !== "chat.completion.chunk") return visible;
    return withoutRepeatedRole(visible as ChatCompletionChunk) as T | null;
  }

  /**
   * What another worker needs to go on; null when this answer cannot be continued: several choices, tool calls, an
   * engine that does not name its tokens, or more of them than are kept.
   */
  extension(): RequestExtension | null {
    if (!this.#continuable) return null;
    return { resume_token_ids: [...this.#tokenIds], resume_text_length: this.#textLength };
  }

  #count(chunk: StreamChunk): void {
    for (const choice of chunk.choices) {
      if (choice.index > 0) this.#continuable = false;
      if (choice.finish_reason !== null) this.#finished = true;
      if ("delta" in choice && isObject(choice.delta) && "tool_calls" in choice.delta)
        this.#continuable = false;
      const text = textOf(choice);
      this.#textLength += text.length;
      if (text.length > 0 && chunk.pilotlight === undefined) this.#continuable = false;
    }
    if (chunk.pilotlight === undefined) return;
    if (this.#tokenIds.length + chunk.pilotlight.token_ids.length > this.#tokensMax)
      this.#continuable = false;
    else for (const token of chunk.pilotlight.token_ids) this.#tokenIds.push(token);
  }
}

function textOf(choice: StreamChunk["choices"][number]): string {
  if ("delta" in choice && isObject(choice.delta)) {
    return typeof choice.delta.content === "string" ? choice.delta.content : "";
  }
  return typeof choice.text === "string" ? choice.text : "";
}

/** A second worker opens with the role again; the client has seen it. */
function withoutRepeatedRole(chunk: ChatCompletionChunk): ChatCompletionChunk | null {
  let left = chunk.usage != null;
  const choices = chunk.choices.map((choice) => {
    const { role, ...delta } = choice.delta;
    const isOnlyRole = role !== undefined && choice.finish_reason === null && !hasText(delta);
    left ||= !isOnlyRole;
    return role === undefined ? choice : { ...choice, delta };
  });
  return left || chunk.choices.length === 0 ? { ...chunk, choices } : null;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;
const hasText = (delta: Record<string, unknown>) =>
  Object.values(delta).some((value) => value !== null && value !== "");
