// Answers of the OpenAI API, as workers write them and the gateway reads them. Loose, because an engine may add fields.
import * as z from "zod";
import { chunkExtension } from "./continuation-schema.ts";

const usage = z.looseObject({
  prompt_tokens: z.int().min(0),
  completion_tokens: z.int().min(0),
  total_tokens: z.int().min(0),
});

const tokenLogprob = z.looseObject({
  token: z.string(),
  bytes: z.array(z.int()).nullable(),
  logprob: z.number(),
  top_logprobs: z.array(
    z.looseObject({ token: z.string(), bytes: z.array(z.int()).nullable(), logprob: z.number() }),
  ),
});
const logprobs = z.looseObject({
  content: z.array(tokenLogprob).nullable(),
  refusal: z.array(tokenLogprob).nullable(),
});

const chatFinishReason = z.enum(["stop", "length", "tool_calls", "content_filter", "function_call"]);
const completionFinishReason = z.enum(["stop", "length", "content_filter"]);

const functionCall = z.looseObject({ name: z.string(), arguments: z.string() });
const toolCall = z.looseObject({ id: z.string(), type: z.literal("function"), function: functionCall });

export const chatCompletion = z.looseObject({
  id: z.string(),
  object: z.literal("chat.completion"),
  created: z.int(),
  model: z.string(),
  choices: z.array(
    z.looseObject({
      index: z.int().min(0),
      message: z.looseObject({
        role: z.literal("assistant"),
        content: z.string().nullable(),
        refusal: z.string().nullable().default(null),
        tool_calls: z.array(toolCall).optional(),
      }),
      logprobs: logprobs.nullable().default(null),
      finish_reason: chatFinishReason,
    }),
  ),
  usage: usage.optional(),
});

export const chatCompletionChunk = z.looseObject({
  id: z.string(),
  object: z.literal("chat.completion.chunk"),
  created: z.int(),
  model: z.string(),
  choices: z.array(
    z.looseObject({
      index: z.int().min(0),
      delta: z.looseObject({
        role: z.enum(["developer", "system", "user", "assistant", "tool"]).optional(),
        content: z.string().nullable().optional(),
      }),
      logprobs: logprobs.nullable().optional(),
      finish_reason: chatFinishReason.nullable(),
    }),
  ),
  usage: usage.nullable().optional(),
  pilotlight: chunkExtension.optional(),
});

const completionLogprobs = z.looseObject({
  tokens: z.array(z.string()).optional(),
  token_logprobs: z.array(z.number()).optional(),
  text_offset: z.array(z.int()).optional(),
});

export const completion = z.looseObject({
  id: z.string(),
  object: z.literal("text_completion"),
  created: z.int(),
  model: z.string(),
  choices: z.array(
    z.looseObject({
      index: z.int().min(0),
      text: z.string(),
      logprobs: completionLogprobs.nullable().default(null),
      finish_reason: completionFinishReason,
    }),
  ),
  usage: usage.optional(),
});

/** A chunk of a streamed completion: as the whole, but the reason may still be missing. */
export const completionChunk = z.looseObject({
  id: z.string(),
  object: z.literal("text_completion"),
  created: z.int(),
  model: z.string(),
  choices: z.array(
    z.looseObject({
      index: z.int().min(0),
      text: z.string(),
      logprobs: completionLogprobs.nullable().optional(),
      finish_reason: completionFinishReason.nullable(),
    }),
  ),
  usage: usage.nullable().optional(),
  pilotlight: chunkExtension.optional(),
});

export const embeddingList = z.looseObject({
  object: z.literal("list"),
  model: z.string(),
  data: z.array(
    z.looseObject({
      object: z.literal("embedding"),
      index: z.int().min(0),
      /** Numbers, or little-endian f32 in base64, as the request's `encoding_format` says. */
      embedding: z.union([z.array(z.number()), z.string()]),
    }),
  ),
  usage: z.looseObject({ prompt_tokens: z.int().min(0), total_tokens: z.int().min(0) }),
});

const modelEntry = z.looseObject({
  id: z.string(),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.string(),
});
export const modelList = z.looseObject({ object: z.literal("list"), data: z.array(modelEntry) });

export const errorBody = z.looseObject({
  error: z.looseObject({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
});

export type Usage = z.output<typeof usage>;
export type ChatCompletion = z.output<typeof chatCompletion>;
export type ChatCompletionChunk = z.output<typeof chatCompletionChunk>;
export type Completion = z.output<typeof completion>;
export type CompletionChunk = z.output<typeof completionChunk>;
export type EmbeddingList = z.output<typeof embeddingList>;
export type ModelEntry = z.output<typeof modelEntry>;
export type ModelList = z.output<typeof modelList>;
export type ErrorBody = z.output<typeof errorBody>;
