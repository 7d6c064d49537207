// The addon as Rust exports it (rust/boundary.rs): plain data, `null` for what is absent. Nothing outside this package
// sees these types.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { PlatformError } from "@pilotlight/errors";
import type {
  EngineStats,
  ExpectedTensor,
  FinishReason,
  LogLevel,
  ModelInfo,
  TokenLogprobs,
  Usage,
} from "./types.ts";

export type NativeOptions = {
  configJson: string;
  generationConfigJson: string | null;
  modulesJson: string | null;
  poolingConfigJson: string | null;
  device: string;
  dtype: string;
  threads: number;
  kvTokensMax: number;
  contextTokensMax: number | null;
  batchTokensMax: number;
  sequencesMax: number;
  waitingMax: number;
  stallMs: number;
  tensorParallel: number;
};

export type NativeTensor = { name: string; rank: number; dtype: string; shape: number[] };
/** `length`: bytes of all runs, which lie `strideBytes` apart. */
export type NativePlace = { path: string; offset: number; length: number; runs: number; strideBytes: number };

export type NativePrompt = {
  messagesJson: string | null;
  toolsJson: string | null;
  templateVariablesJson: string | null;
  text: string | null;
  tokenIds: Uint32Array | null;
};

export type NativeGenerate = {
  id: number;
  requestId: string | null;
  prompt: NativePrompt;
  resumeTokenIds: Uint32Array;
  maxTokens: number | null;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  seed: number;
  stop: string[];
  ignoreEos: boolean;
  logitBiasTokens: Uint32Array;
  logitBiasValues: number[];
  presencePenalty: number | null;
  frequencyPenalty: number | null;
  logprobs: number | null;
};

export type NativeEvent =
  | {
      kind: "chunk";
      id: number;
      tokenIds: number[];
      text: string;
      logprobs: TokenLogprobs | null;
      finishReason: FinishReason | null;
      usage: Usage | null;
    }
  | { kind: "failed"; id: number; errorJson: string }
  | { kind: "embedded"; id: number; dimensions: number; values: Float32Array }
  | { kind: "weightsComplete" | "quiesced" }
  | { kind: "ended"; errorJson: string }
  | { kind: "log"; level: LogLevel; message: string; fieldsJson: string };

export type NativeEngine = {
  model(): ModelInfo;
  loadText(tokenizer: string, config: string | null, template: string | null): Promise<void>;
  expectedTensors(): ExpectedTensor[];
  push(tensor: NativeTensor, bytes: Uint8Array): Promise<void>;
  pushMapped(tensor: NativeTensor, place: NativePlace): Promise<void>;
  generate(request: NativeGenerate): Promise<void>;
  embed(id: number, requestId: string | null, inputs: NativePrompt[]): Promise<void>;
  cancel(id: number): void;
  consumed(id: number, tokens: number): void;
  takeEvents(): NativeEvent[];
  tokenize(text: string, addSpecialTokens: boolean): Promise<number[]>;
  detokenize(tokenIds: Uint32Array): Promise<string>;
  renderChat(prompt: NativePrompt): Promise<string>;
  stats(): EngineStats;
  quiesce(): void;
  resume(): void;
  close(): Promise<void>;
  /** Only in the `fault-injection` variant that the tests build. */
  injectPanic?(place: "call" | "step"): void;
};

export type Addon = {
  NativeEngine: new (options: NativeOptions, notify: () => void) => NativeEngine;
};

const ADDON = fileURLToPath(new URL("../engine.node", import.meta.url));

/** Loads the addon that `native/engine/build.mjs` made. Throws `preconditionFailed` when there is none. */
export function loadAddon(path: string = ADDON): Addon {
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (cause) {
    throw new PlatformError("preconditionFailed", `the engine's native addon cannot be loaded from ${path}`, {
      remedy: "Run npm start, or: node native/engine/build.mjs",
      cause,
    });
  }
}
