// From the engine's pieces to the OpenAI API's answers, whole and streamed.
//
//   A1. One piece of the engine is one event, with its text and its tokens, so that whoever counts the tokens of the events
//       knows exactly the text that was sent.
//   A2. A stream ends with `[DONE]`; one that was cut throws, and its last event says why.
import type { Usage as EngineUsage, FinishReason, GenerateChunk, TokenLogprobs } from "@pilotlight/engine";
import { encodeSse, SSE_CONTENT_TYPE, SSE_DONE, type Usage } from "@pilotlight/openai";
import type { Answer, EngineCall } from "../../engine.ts";
import type { TokenTexts } from "./token-texts.ts";

export type AnswerContext = {
  kind: "chat" | "completion";
  call: EngineCall;
  modelName: string;
  fingerprint: string;
  texts: TokenTexts;
  includeUsage: boolean;
  now: number;
};

type Pieces = AsyncIterator<GenerateChunk>;

/** Collects a whole answer. */
export async function wholeAnswer(pieces: Pieces, context: AnswerContext): Promise<Answer> {
  let text = "";
  const logprobs: TokenLogprobs[] = [];
  let last: GenerateChunk | null = null;
  for (let step = await pieces.next(); step.done !== true; step = await pieces.next()) {
    text += step.value.text;
    if (step.value.logprobs !== null) logprobs.push(...step.value.logprobs);
    last = step.value;
  }
  throwIfCut(last, context.call);
  const details = last?.logprobs === null ? null : await describeLogprobs(logprobs, context, 0);
  const choice =
    context.kind === "chat" ? { message: { role: "assistant", content: text, refusal: null } } : { text };
  const body = {
    ...headOf(context, context.kind === "chat" ? "chat.completion" : "text_completion"),
    choices: [{ index: 0, ...choice, logprobs: details, finish_reason: reasonOf(last?.finishReason) }],
    usage: usageOf(last?.usage ?? null),
  };
  return { kind: "whole", status: 200, contentType: "application/json", body: JSON.stringify(body) };
}

/** Streams an answer. The first part throws what the engine says against the request. */
export function streamedAnswer(pieces: Pieces, context: AnswerContext): Answer {
  return { kind: "stream", contentType: SSE_CONTENT_TYPE, parts: events(pieces, context) };
}

async function* events(pieces: Pieces, context: AnswerContext): AsyncGenerator<string> {
  const { kind, call, includeUsage } = context;
  const head = headOf(context, kind === "chat" ? "chat.completion.chunk" : "text_completion");
  const none = includeUsage ? { usage: null } : {};
  const opening = encodeSse({
    ...head,
    choices: [{ index: 0, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }],
    ...none,
  });
  let pending = kind === "chat" ? opening : "";
  let offset = 0;
  let last: GenerateChunk | null = null;
  try {
    for (let step = await pieces.next(); step.done !== true; step = await pieces.next()) {
      const piece = step.value;
      last = piece;
      if (piece.finishReason === "cancelled") break;
      const isLast = piece.finishReason !== null;
      const details =
        piece.logprobs === null ? null : await describeLogprobs(piece.logprobs, context, offset);
      offset += piece.text.length;
      const choice =
        kind === "chat" ? { delta: piece.text === "" ? {} : { content: piece.text } } : { text: piece.text };
      const event = encodeSse({
        ...head,
        choices: [
          {
            index: 0,
            ...choice,
            logprobs: details,
            finish_reason: isLast ? reasonOf(piece.finishReason) : null,
          },
        ],
        ...none,
        ...(call.wantsTokens ? { pilotlight: extensionOf(piece) } : {}),
      });
      yield pending + event;
      pending = "";
    }
    throwIfCut(last, call);
    const usage = includeUsage
      ? encodeSse({ ...head, choices: [], usage: usageOf(last?.usage ?? null) })
      : "";
    yield usage + SSE_DONE;
  } finally {
    await pieces.return?.();
  }
}

/** For the gateway: the tokens behind this part, and the counts when it is the last. */
const extensionOf = ({ tokenIds, usage }: GenerateChunk) => ({
  token_ids: tokenIds,
  ...(usage === null ? {} : { prompt_tokens: usage.promptTokens, completion_tokens: usage.completionTokens }),
});

function headOf({ kind, call, modelName, fingerprint, now }: AnswerContext, object: string) {
  return {
    id: `${kind === "chat" ? "chatcmpl" : "cmpl"}-${call.answerId}`,
    object,
    created: Math.floor(now / 1000),
    model: modelName,
    system_fingerprint: fingerprint,
  };
}

function throwIfCut(last: GenerateChunk | null, { signal }: EngineCall): void {
  if (last?.finishReason !== "cancelled") return;
  signal.throwIfAborted();
}

const reasonOf = (reason: FinishReason | null | undefined): "stop" | "length" =>
  reason === "length" ? "length" : "stop";

function usageOf(usage: EngineUsage | null): Usage {
  const prompt = usage?.promptTokens ?? 0;
  const completion = usage?.completionTokens ?? 0;
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

async function describeLogprobs(
  tokens: readonly TokenLogprobs[],
  { kind, texts }: AnswerContext,
  offset: number,
) {
  const named = await Promise.all(
    tokens.map(async (token) => ({
      ...(await texts.describe(token)),
      top: await Promise.all(token.top.map((alternative) => texts.describe(alternative))),
    })),
  );
  if (kind === "chat") {
    return { content: named.map(({ top, ...token }) => ({ ...token, top_logprobs: top })), refusal: null };
  }
  let at = offset;
  const offsets = named.map(({ token }) => {
    const start = at;
    at += token.length;
    return start;
  });
  return {
    tokens: named.map(({ token }) => token),
    token_logprobs: named.map(({ logprob }) => logprob),
    top_logprobs: named.map(({ top }) =>
      Object.fromEntries(top.map(({ token, logprob }) => [token, logprob])),
    ),
    text_offset: offsets,
  };
}
