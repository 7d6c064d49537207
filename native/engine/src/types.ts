// What the engine takes and gives: plain data, `null` for what is absent in a result. Optional request fields fall
// back to the model's generation_config.json and then to the defaults named here.

/** Element types of the safetensors format that the engine computes with. */
export type TensorDtype = "F32" | "BF16" | "F16";

/** The text of a model repository's files. `null` or absent: the repository has no such file. */
export type ModelFiles = {
  /** config.json, in the spelling of transformers 4 or 5. */
  configJson: string;
  /** tokenizer.json. Without it only token IDs can be given, and chunks carry no text. */
  tokenizerJson?: string | null;
  /** tokenizer_config.json: special tokens and, in older repositories, the chat template. */
  tokenizerConfigJson?: string | null;
  /** chat_template.jinja; wins over the template inside tokenizer_config.json. */
  chatTemplate?: string | null;
  /** generation_config.json: end-of-sequence tokens and sampling defaults. */
  generationConfigJson?: string | null;
  /** modules.json of sentence-transformers: says whether embeddings are normalised. */
  modulesJson?: string | null;
  /** 1_Pooling/config.json of sentence-transformers: mean or first-token pooling. */
  poolingConfigJson?: string | null;
};

export type EngineOptions = ModelFiles & {
  /** Only the CPU today; anything else is refused as `unsupported`. */
  device?: "cpu";
  /** `auto` keeps each tensor as it comes (mapped, never copied); `f32` and `bf16` convert on arrival. */
  dtype?: "auto" | "f32" | "bf16";
  /** Compute threads, 1..256. Default: all cores this process may use. */
  threads?: number;
  /** Tokens of key/value cache over all sequences: the hard limit of memory. Default 16,384. */
  kvTokensMax?: number;
  /** Longest sequence, prompt and answer together. Default: what the model and the cache allow. */
  contextTokensMax?: number;
  /** Tokens computed in one step over all sequences, 16..16,384. Default 512. */
  batchTokensMax?: number;
  /** Sequences decoded at the same time, 1..1,024. Default 32. */
  sequencesMax?: number;
  /** Requests that may wait for a place; one more is refused as `resourceExhausted`. Default 256. */
  waitingMax?: number;
  /** A step that takes longer is logged as a stall, in ms. Default 5,000. */
  stallMs?: number;
  /**
   * Ranks of the tensor-parallel group whose slices are handed over, 1..64; the engine computes as all of them. Only for
   * decoders, whose heads, intermediate size and vocabulary it divides. Default 1: whole tensors.
   */
  tensorParallel?: number;
  /** Called on the event loop for each log line of the engine. */
  onLog?: (level: LogLevel, message: string, fields: LogFields) => void;
};

export type LogLevel = "debug" | "info" | "warn" | "error";
/** `requestId` is there whenever the line belongs to one request. */
export type LogFields = Record<string, string | number | boolean | null>;

export type ModelInfo = {
  /** As config.json names it, e.g. `LlamaForCausalLM`. */
  architecture: string;
  /** Which of `generate` and `embed` works. */
  kind: "decoder" | "encoder";
  layers: number;
  /** Width of the hidden state; for an encoder the length of its embeddings. */
  dimensions: number;
  vocabularySize: number;
  /** Longest sequence, prompt and answer together, in tokens: the smaller of the model's context and the KV cache. */
  contextTokensMax: number;
  threads: number;
  /** The instruction set the kernels use: `avx512bf16`, `avx512`, `avx2` or `portable`. */
  instructionSet: string;
  /** Ranks whose slices make up the model. */
  tensorParallel: number;
};

export type ExpectedTensor = {
  name: string;
  /** Of the slice that each rank hands over: `decoderSplit` of @pilotlight/safetensors cuts it so. */
  shape: number[];
  /** Optional tensors are taken and dropped (e.g. a head that is tied to the embeddings). */
  required: boolean;
};

type HandedTensor = {
  name: string;
  /** Whose slice it is, from 0, with `tensorParallel`. What ranks have alike comes from each of them and is kept once. Default 0. */
  rank?: number;
  /** `F32`, `BF16` or `F16`; tensors that are not required may have any type. */
  dtype: TensorDtype | (string & {});
  /** Of the slice. */
  shape: readonly number[];
};

/** A tensor whose bytes are handed over and copied. */
export type PushedTensor = HandedTensor & {
  /** Little-endian, row-major, exactly as in a safetensors file. */
  bytes: Uint8Array;
};

/**
 * A tensor whose bytes lie in a file: safetensors on disk, or a shared-memory segment under /dev/shm. The engine maps
 * them, so replicas share the pages. The file must not shrink or change while the engine lives.
 */
export type MappedTensor = HandedTensor & {
  path: string;
  /** First byte of the tensor in the file. */
  offset: number;
  /** Bytes of the tensor: of all its runs. */
  length: number;
  /** Pieces that the bytes lie in: one, or one for each row of a slice along the columns. Default 1. */
  runs?: number;
  /** Bytes from the start of a run to the start of the next. */
  strideBytes?: number;
};

/** One message of a chat; other keys (tool calls, names) are passed to the template as they are. */
export type ChatMessage = { role: string; content?: unknown; [key: string]: unknown };

/** Exactly one of `messages`, `text` and `promptTokenIds` is given. */
export type GenerateRequest = {
  /** Stands in every log line of this request. */
  requestId?: string | null;
  messages?: readonly ChatMessage[] | null;
  /** JSON-schema tools, passed through to the chat template. Only with `messages`. */
  tools?: readonly unknown[] | null;
  /** More variables for the chat template, e.g. `{ enable_thinking: false }`. Only with `messages`. */
  templateVariables?: Record<string, unknown> | null;
  text?: string | null;
  promptTokenIds?: readonly number[] | null;
  /**
   * Tokens of this answer that were already sent, by whichever replica. They count against `maxTokens`, are not emitted
   * again, and the rest of the answer is what an undisturbed run would have given (same prompt, parameters and seed).
   */
  resumeTokenIds?: readonly number[] | null;
  /** Tokens of the whole answer, resumed ones included. Default: what the context leaves. */
  maxTokens?: number | null;
  /** 0 is greedy. Default: generation_config.json, else 1. */
  temperature?: number | null;
  /** Smallest set of tokens with this total probability, (0, 1]. */
  topP?: number | null;
  /** Only the k most likely tokens; 0 is all. */
  topK?: number | null;
  /** Same seed, same answer. Without one each request draws its own; pass one to be able to resume. */
  seed?: number | null;
  /** Up to 16 strings that end the answer; they are not part of its text. */
  stop?: readonly string[] | null;
  /** Keep going past end-of-sequence tokens (load tests). */
  ignoreEos?: boolean | null;
  /** Added to the logits of single tokens, e.g. to forbid (-100) or prefer the end-of-sequence token. */
  logitBias?: Readonly<Record<number, number>> | null;
  /** -2..2, as in the OpenAI API. */
  presencePenalty?: number | null;
  /** -2..2, as in the OpenAI API. */
  frequencyPenalty?: number | null;
  /** Log probabilities of the chosen token and of this many alternatives, 0..20; absent: none at all. */
  logprobs?: number | null;
};

export type TokenLogprob = { tokenId: number; logprob: number };
/** One generated token: its own log probability, and the most likely ones in falling order. */
export type TokenLogprobs = TokenLogprob & { top: TokenLogprob[] };

export type FinishReason = "stop" | "length" | "cancelled";

export type Usage = {
  promptTokens: number;
  /** Of the whole answer, resumed tokens included. */
  completionTokens: number;
  /** Waiting for a place, in ms. */
  queuedMs: number;
  /** From admission to the first token, in ms; null without one. */
  prefillMs: number | null;
  /** From the first token to the last, in ms. */
  decodeMs: number;
};

/**
 * A piece of an answer. `text` is exactly what `tokenIds` add to the text: complete UTF-8, held back while it may still
 * become part of a character or a stop string. The last chunk, and only it, has `finishReason` and `usage`.
 */
export type GenerateChunk = {
  tokenIds: number[];
  text: string;
  /** One entry per token when the request asked for them, else null. */
  logprobs: TokenLogprobs[] | null;
  finishReason: FinishReason | null;
  usage: Usage | null;
};

export type CallOptions = { signal?: AbortSignal };
export type EmbedOptions = CallOptions & { requestId?: string | null };

/** `failed` is final: a panic ended the engine's thread; every request was rejected with `internal`. */
export type EngineState = "loading" | "ready" | "quiesced" | "failed" | "closed";

export type EngineStats = {
  state: EngineState;
  /** Why, when the state is `failed`. */
  failure: string | null;
  running: number;
  waiting: number;
  kvTokensUsed: number;
  kvTokensMax: number;
  promptTokensTotal: number;
  generatedTokensTotal: number;
  embeddedTokensTotal: number;
  requestsStoppedTotal: number;
  requestsCancelledTotal: number;
  requestsFailedTotal: number;
  /** Sequences that gave their KV room to an older one and were computed again later. */
  preemptionsTotal: number;
  stepsTotal: number;
  stepMsLast: number;
  stepMsMean: number;
  /** Of all ranks together. */
  tensorsExpected: number;
  tensorsReceived: number;
  weightBytesMapped: number;
  weightBytesOwned: number;
};

export interface Engine {
  readonly model: ModelInfo;
  /** Every tensor that the model needs of each rank, or tolerates. */
  expectedTensors(): ExpectedTensor[];
  /**
   * Hands over one tensor; in any order, several at a time. Rejects with `invalidArgument` (unknown name or rank, wrong shape,
   * wrong length), `alreadyExists` (given twice) or `corrupt` (not what another rank brought, where all have the same).
   */
  push(tensor: PushedTensor): Promise<void>;
  /** Hands over one tensor without copying its bytes. Rejects like `push`, and with `notFound` or `corrupt` for the file. */
  pushMapped(tensor: MappedTensor): Promise<void>;
  /** Resolves when the last required tensor is built in; rejects when the engine is closed or fails before. */
  readonly weightsComplete: Promise<void>;
  /** Resolves when weights and tokenizer are there: requests make progress from now on. */
  readonly ready: Promise<void>;
  /**
   * Generates one answer. Requests are taken before the weights are complete, and wait. Throws PlatformError
   * (`invalidArgument`, `resourceExhausted`, `unsupported`, `unavailable`, `internal`) on the first `next()`. An aborted
   * signal ends the answer with `finishReason: "cancelled"`; leaving the loop cancels too.
   */
  generate(request: GenerateRequest, options?: CallOptions): AsyncIterableIterator<GenerateChunk>;
  /** One vector per text (or list of token IDs), in order. Rejects with `cancelled` when the signal is aborted. */
  embed(inputs: readonly (string | readonly number[])[], options?: EmbedOptions): Promise<Float32Array[]>;
  /** Token IDs of a text, with the model's special tokens unless told otherwise. */
  tokenize(text: string, options?: { addSpecialTokens?: boolean }): Promise<number[]>;
  /** The text of token IDs, special tokens left out. */
  detokenize(tokenIds: readonly number[]): Promise<string>;
  /** The prompt that the chat template makes, ready for the answer. */
  renderChat(
    messages: readonly ChatMessage[],
    tools?: readonly unknown[] | null,
    templateVariables?: Record<string, unknown> | null,
  ): Promise<string>;
  stats(): EngineStats;
  /** Ends the running step, then does nothing until `resume`: no thread computes, requests keep their places. */
  quiesce(): Promise<void>;
  resume(): void;
  /** Rejects what is open with `unavailable`, ends the threads, unmaps the weights. Idempotent. */
  close(): Promise<void>;
}
