// The OpenAI wire format: what clients send, what they get, and what gateway and worker add between themselves.
export { type Checked, checkChatCompletion, checkCompletion, checkEmbeddings } from "./check.ts";
export {
  attachTokens,
  resumeRequest,
  type StreamChunk,
  StreamTally,
  type StreamTallyOptions,
  withoutExtension,
} from "./continuation.ts";
export type { ChunkExtension, RequestExtension } from "./continuation-schema.ts";
export { type OpenAiError, toOpenAiError } from "./errors.ts";
export { ANSWER_HEADER, DRAINING_HEADER } from "./headers.ts";
export { OPENAI_LIMITS } from "./limits.ts";
export {
  type ChatCompletionRequest,
  type ChatMessage,
  type CompletionRequest,
  chatCompletionRequest,
  completionRequest,
  type EmbeddingsRequest,
  embeddingsRequest,
  type GeneratingRequest,
} from "./requests.ts";
export {
  type ChatCompletion,
  type ChatCompletionChunk,
  type Completion,
  type CompletionChunk,
  chatCompletion,
  chatCompletionChunk,
  completion,
  completionChunk,
  type EmbeddingList,
  type ErrorBody,
  embeddingList,
  errorBody,
  type ModelEntry,
  type ModelList,
  modelList,
  type Usage,
} from "./responses.ts";
export {
  encodeSse,
  SSE_CONTENT_TYPE,
  SSE_DONE,
  SSE_KEEP_ALIVE,
  SseDecoder,
  type SseDecoderOptions,
} from "./sse.ts";
