// @pilotlight/engine: the embedded inference engine. See README.md for the boundary, types.ts for the contract.

export { createEngine } from "./engine.ts";
export type {
  CallOptions,
  ChatMessage,
  EmbedOptions,
  Engine,
  EngineOptions,
  EngineState,
  EngineStats,
  ExpectedTensor,
  FinishReason,
  GenerateChunk,
  GenerateRequest,
  LogFields,
  LogLevel,
  MappedTensor,
  ModelFiles,
  ModelInfo,
  PushedTensor,
  TensorDtype,
  TokenLogprob,
  TokenLogprobs,
  Usage,
} from "./types.ts";
