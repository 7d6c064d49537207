// Requests of the OpenAI API (https://platform.openai.com/docs/api-reference), as far as the platform has to understand
// them. Known fields are checked; every other field passes through untouched to the engine, which may know more options
// than anybody here (tool parsers, guided decoding, top_k, …). A migration was once abandoned because they did not.
import * as z from "zod";
import { requestExtension } from "./continuation-schema.ts";
import { OPENAI_LIMITS as LIMITS } from "./limits.ts";

const modelName = z.string().min(1).max(LIMITS.modelNameLengthMax);
const optional = <T extends z.ZodType>(schema: T) => schema.nullable().optional();
const text = z.string();
const tokenIds = z.array(z.int().min(0)).max(LIMITS.tokensPerInputMax);

const contentPart = z.looseObject({ type: z.string() });
const content = z.union([text, z.array(contentPart).max(LIMITS.contentPartsMax)], {
  error: "must be text or a list of parts with a type",
});

const message = z.looseObject({
  role: z.enum(["developer", "system", "user", "assistant", "tool", "function"]),
  content: optional(content),
});

const stop = z.union(
  [
    z.string().max(LIMITS.stopLengthMax),
    z.array(z.string().max(LIMITS.stopLengthMax)).max(LIMITS.stopSequencesMax),
  ],
  { error: `must be text or at most ${LIMITS.stopSequencesMax} texts of ${LIMITS.stopLengthMax} characters` },
);

const logitBias = z
  .record(z.string(), z.number().min(-100).max(100))
  .refine((bias) => Object.keys(bias).length <= LIMITS.logitBiasMax, {
    error: `must have at most ${LIMITS.logitBiasMax} entries`,
  });

/** What all generating requests have in common. */
const sampling = {
  model: modelName,
  stream: optional(z.boolean()),
  stream_options: optional(z.looseObject({ include_usage: z.boolean().optional() })),
  temperature: optional(z.number().min(0).max(2)),
  top_p: optional(z.number().min(0).max(1)),
  n: optional(z.int().min(1).max(LIMITS.choicesMax)),
  stop: optional(stop),
  seed: optional(z.int()),
  max_tokens: optional(z.int().min(1)),
  presence_penalty: optional(z.number().min(-2).max(2)),
  frequency_penalty: optional(z.number().min(-2).max(2)),
  logit_bias: optional(logitBias),
  user: z.string().max(LIMITS.userLengthMax).nullable().optional(),
  /** Between gateway and worker only; the gateway takes it off whatever a client sends. */
  pilotlight: requestExtension.optional(),
};

export const chatCompletionRequest = z.looseObject({
  ...sampling,
  messages: z.array(message).min(1).max(LIMITS.messagesMax),
  max_completion_tokens: optional(z.int().min(1)),
  logprobs: optional(z.boolean()),
  top_logprobs: optional(z.int().min(0).max(LIMITS.topLogprobsMax)),
  tools: z
    .array(z.looseObject({ type: z.string() }))
    .max(LIMITS.toolsMax)
    .nullable()
    .optional(),
});

export const completionRequest = z.looseObject({
  ...sampling,
  prompt: z.union(
    [text, z.array(text).min(1).max(LIMITS.promptsMax), tokenIds, z.array(tokenIds).max(LIMITS.promptsMax)],
    {
      error: `must be text, a list of token IDs, or at most ${LIMITS.promptsMax} of them`,
    },
  ),
  echo: optional(z.boolean()),
  best_of: optional(z.int().min(1).max(LIMITS.choicesMax)),
  logprobs: optional(z.int().min(0).max(LIMITS.topLogprobsMax)),
  suffix: optional(text),
});

export const embeddingsRequest = z.looseObject({
  model: modelName,
  input: z.union(
    [
      z.string().min(1),
      z.array(z.string().min(1)).min(1).max(LIMITS.embeddingInputsMax),
      tokenIds.min(1),
      z.array(tokenIds.min(1)).min(1).max(LIMITS.embeddingInputsMax),
    ],
    {
      error: `must be text or token IDs that are not empty, or a list of at most ${LIMITS.embeddingInputsMax} of them`,
    },
  ),
  encoding_format: z.enum(["float", "base64"]).optional(),
  dimensions: z.int().min(1).max(65_536).optional(),
  user: z.string().max(LIMITS.userLengthMax).optional(),
});

export type ChatCompletionRequest = z.output<typeof chatCompletionRequest>;
export type ChatMessage = z.output<typeof message>;
export type CompletionRequest = z.output<typeof completionRequest>;
export type EmbeddingsRequest = z.output<typeof embeddingsRequest>;
/** A request whose answer may be a stream. */
export type GeneratingRequest = ChatCompletionRequest | CompletionRequest;
