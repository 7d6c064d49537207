// From the requests of types.ts to what the addon takes. JavaScript's looser values are checked here (token IDs, JSON);
// ranges and limits are the addon's to check.

import { randomInt } from "node:crypto";
import { availableParallelism } from "node:os";
import { PlatformError } from "@pilotlight/errors";
import type { NativeGenerate, NativeOptions, NativePlace, NativePrompt, NativeTensor } from "./native.ts";
import type { EngineOptions, GenerateRequest, MappedTensor, PushedTensor } from "./types.ts";

const DEFAULTS = {
  kvTokensMax: 16_384,
  batchTokensMax: 512,
  sequencesMax: 32,
  waitingMax: 256,
  stallMs: 5_000,
};
const TOKEN_ID_MAX = 2 ** 32 - 1;
/** Exclusive bound of drawn seeds; randomInt takes ranges below 2^48. */
const SEED_END = 2 ** 48 - 1;

export function toNativeOptions(options: EngineOptions): NativeOptions {
  return {
    configJson: options.configJson,
    generationConfigJson: options.generationConfigJson ?? null,
    modulesJson: options.modulesJson ?? null,
    poolingConfigJson: options.poolingConfigJson ?? null,
    device: options.device ?? "cpu",
    dtype: options.dtype ?? "auto",
    threads: options.threads ?? availableParallelism(),
    kvTokensMax: options.kvTokensMax ?? DEFAULTS.kvTokensMax,
    contextTokensMax: options.contextTokensMax ?? null,
    batchTokensMax: options.batchTokensMax ?? DEFAULTS.batchTokensMax,
    sequencesMax: options.sequencesMax ?? DEFAULTS.sequencesMax,
    waitingMax: options.waitingMax ?? DEFAULTS.waitingMax,
    stallMs: options.stallMs ?? DEFAULTS.stallMs,
    tensorParallel: options.tensorParallel ?? 1,
  };
}

export function toNativeTensor({ name, rank, dtype, shape }: PushedTensor | MappedTensor): NativeTensor {
  return { name, rank: rank ?? 0, dtype, shape: [...shape] };
}

export function toNativePlace({ path, offset, length, runs, strideBytes }: MappedTensor): NativePlace {
  return { path, offset, length, runs: runs ?? 1, strideBytes: strideBytes ?? 0 };
}

export function toNativeRequest(id: number, request: GenerateRequest): NativeGenerate {
  const bias = Object.entries(request.logitBias ?? {});
  const biased = bias.map(([token]) => Number(token));
  return {
    id,
    requestId: request.requestId ?? null,
    prompt: {
      messagesJson: toJson(request.messages, "request.messages"),
      toolsJson: toJson(request.tools, "request.tools"),
      templateVariablesJson: toJson(request.templateVariables, "request.templateVariables"),
      text: request.text ?? null,
      tokenIds: request.promptTokenIds ? toTokenIds(request.promptTokenIds, "request.promptTokenIds") : null,
    },
    resumeTokenIds: toTokenIds(request.resumeTokenIds ?? [], "request.resumeTokenIds"),
    maxTokens: request.maxTokens ?? null,
    temperature: request.temperature ?? null,
    topP: request.topP ?? null,
    topK: request.topK ?? null,
    seed: request.seed ?? randomInt(SEED_END),
    stop: [...(request.stop ?? [])],
    ignoreEos: request.ignoreEos ?? false,
    logitBiasTokens: toTokenIds(biased, "request.logitBias"),
    logitBiasValues: bias.map(([, value]) => value),
    presencePenalty: request.presencePenalty ?? null,
    frequencyPenalty: request.frequencyPenalty ?? null,
    logprobs: request.logprobs ?? null,
  };
}

export function toNativeInput(input: string | readonly number[], field: string): NativePrompt {
  const isText = typeof input === "string";
  return {
    messagesJson: null,
    toolsJson: null,
    templateVariablesJson: null,
    text: isText ? input : null,
    tokenIds: isText ? null : toTokenIds(input, field),
  };
}

export function toTokenIds(tokens: readonly number[], field: string): Uint32Array {
  const wrong = tokens.findIndex((token) => !Number.isInteger(token) || token < 0 || token > TOKEN_ID_MAX);
  if (wrong < 0) return Uint32Array.from(tokens);
  throw new PlatformError("invalidArgument", `${field}[${wrong}] is ${tokens[wrong]}, which is no token ID`, {
    field: `${field}[${wrong}]`,
  });
}

/** `null` for what is absent; throws `invalidArgument` for what JSON cannot hold. */
export function toJson(value: unknown, field: string): string | null {
  if (value === undefined || value === null) return null;
  try {
    return JSON.stringify(value);
  } catch (cause) {
    throw new PlatformError("invalidArgument", `${field} cannot be written as JSON`, { field, cause });
  }
}
