// From a request of the OpenAI API to one of the engine. What the engine cannot do is refused by name; fields that it does
// not know are ignored.
import { hash } from "node:crypto";
import type { ChatMessage as EngineMessage, GenerateRequest } from "@pilotlight/engine";
import { PlatformError } from "@pilotlight/errors";
import type { ChatCompletionRequest, CompletionRequest, GeneratingRequest } from "@pilotlight/openai";
import type { EngineCall } from "../../engine.ts";

/** Smallest top_p that the engine takes; 0 of the OpenAI API means only the most likely token. */
const TOP_P_MIN = 1e-9;
const SEED_BITS = 53;

/** A chat. Throws `invalidArgument` with the field. */
export function chatRequest(request: ChatCompletionRequest, call: EngineCall): GenerateRequest {
  refuseUnsupported(request);
  const format = request.response_format as { type?: unknown } | null | undefined;
  if (format != null && format.type !== "text")
    throw unsupported("response_format", "this engine does not constrain its output to a format");
  const topLogprobs = request.logprobs === true ? (request.top_logprobs ?? 0) : null;
  const variables = request.chat_template_kwargs as Record<string, unknown> | null | undefined;
  return {
    ...samplingOf(request, call),
    messages: request.messages.map((message, index) => engineMessage(message, index)),
    tools: request.tools ?? null,
    templateVariables: variables ?? null,
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? null,
    logprobs: topLogprobs,
  };
}

/** A completion. Throws `invalidArgument` with the field. */
export function completionRequest(request: CompletionRequest, call: EngineCall): GenerateRequest {
  refuseUnsupported(request);
  if (request.echo === true) throw unsupported("echo", "this engine does not repeat the prompt");
  if (request.suffix != null && request.suffix !== "")
    throw unsupported("suffix", "this engine does not fill in the middle");
  if ((request.best_of ?? 1) > 1) throw unsupported("best_of", "this engine gives one answer a request");
  return {
    ...samplingOf(request, call),
    ...promptOf(request.prompt),
    maxTokens: request.max_tokens ?? COMPLETION_TOKENS_DEFAULT,
    logprobs: request.logprobs ?? null,
  };
}

/** The OpenAI API's own default for completions; a chat's is what the context leaves. */
const COMPLETION_TOKENS_DEFAULT = 16;

function refuseUnsupported(request: GeneratingRequest): void {
  if ((request.n ?? 1) > 1)
    throw unsupported(
      "n",
      "this engine gives one answer a request: send it several times, with different seeds",
    );
}

function samplingOf(request: GeneratingRequest, call: EngineCall): GenerateRequest {
  const { top_k: topK, ignore_eos: ignoreEos } = request as { top_k?: unknown; ignore_eos?: unknown };
  return {
    requestId: call.requestId,
    resumeTokenIds: request.pilotlight?.resume_token_ids ?? null,
    temperature: request.temperature ?? null,
    topP: request.top_p == null ? null : Math.max(request.top_p, TOP_P_MIN),
    topK: typeof topK === "number" ? Math.max(0, topK) : null,
    seed: seedOf(request.seed, call.answerId),
    stop: stopsOf(request.stop),
    ignoreEos: ignoreEos === true,
    logitBias: (request.logit_bias as Record<number, number> | null | undefined) ?? null,
    presencePenalty: request.presence_penalty ?? null,
    frequencyPenalty: request.frequency_penalty ?? null,
  };
}

/** The answer's own name seeds it when the client does not: so another replica goes on as this one would have. */
function seedOf(seed: number | null | undefined, answerId: string): number {
  const bits = seed == null ? BigInt(`0x${hash("sha256", answerId).slice(0, 16)}`) : BigInt(seed);
  return Number(BigInt.asUintN(SEED_BITS, bits));
}

/** The API ignores empty stop strings; the engine refuses them. */
const stopsOf = (stop: GeneratingRequest["stop"]): string[] =>
  (typeof stop === "string" ? [stop] : (stop ?? [])).filter((one) => one !== "");

function engineMessage(message: ChatCompletionRequest["messages"][number], index: number): EngineMessage {
  const { content } = message;
  if (!Array.isArray(content)) return message;
  const text = content.map((part, at) => {
    if (part.type === "text" && typeof part.text === "string") return part.text;
    throw new PlatformError(
      "invalidArgument",
      `this model reads text only, not a part of type '${part.type}'`,
      {
        field: `messages[${index}].content[${at}].type`,
      },
    );
  });
  return { ...message, content: text.join("") };
}

function promptOf(prompt: CompletionRequest["prompt"]): Pick<GenerateRequest, "text" | "promptTokenIds"> {
  if (typeof prompt === "string") return { text: prompt };
  const [first] = prompt;
  if (typeof first === "number") return { promptTokenIds: prompt as number[] };
  if (prompt.length > 1) throw unsupported("prompt", "this engine takes one prompt a request");
  if (typeof first === "string") return { text: first };
  return { promptTokenIds: first ?? [] };
}

const unsupported = (field: string, message: string) =>
  new PlatformError("invalidArgument", `${field}: ${message}`, { field });
