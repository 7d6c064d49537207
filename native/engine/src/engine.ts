// The engine as an object of the event loop: promises and async iterators over the addon's calls and events.

import { PlatformError } from "@pilotlight/errors";
import { fromEvent, fromNative } from "./errors.ts";
import { type Addon, loadAddon, type NativeEngine, type NativeEvent } from "./native.ts";
import {
  toJson,
  toNativeInput,
  toNativeOptions,
  toNativePlace,
  toNativeRequest,
  toNativeTensor,
  toTokenIds,
} from "./requests.ts";
import { ChunkStream } from "./stream.ts";
import type {
  CallOptions,
  ChatMessage,
  EmbedOptions,
  Engine,
  EngineOptions,
  EngineStats,
  ExpectedTensor,
  GenerateChunk,
  GenerateRequest,
  LogFields,
  MappedTensor,
  ModelInfo,
  PushedTensor,
} from "./types.ts";

type Deferred<T> = PromiseWithResolvers<T>;

/** Read tokens are reported to the addon in portions of this size. */
const CONSUMED_REPORT_TOKENS = 64;
/** Any long interval: the timer only keeps the process alive while an answer is awaited. */
const KEEP_ALIVE_MS = 2 ** 30;

/**
 * Checks the model's configuration and starts an engine that waits for its weights.
 *
 * @throws PlatformError `invalidArgument` or `unsupported` naming the field, `preconditionFailed` without the addon.
 */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  return createEngineWith(loadAddon(), options);
}

/** As `createEngine`, on a given addon. */
export function createEngineWith(addon: Addon, options: EngineOptions): EmbeddedEngine {
  return new EmbeddedEngine(addon, options);
}

/** The implementation of `Engine`; `native` is open for tests. */
export class EmbeddedEngine implements Engine {
  readonly native: NativeEngine;
  readonly model: ModelInfo;
  readonly weightsComplete: Promise<void>;
  readonly ready: Promise<void>;
  readonly #onLog: EngineOptions["onLog"];
  readonly #textReady: Promise<void>;
  readonly #weights: Deferred<void> = Promise.withResolvers<void>();
  readonly #streams = new Map<number, ChunkStream>();
  readonly #embeddings = new Map<number, Deferred<Float32Array[]>>();
  #quiescing: Deferred<void>[] = [];
  #weightsExpected = false;
  #nextId = 1;
  #open = 0;
  #keepAlive: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;

  constructor(addon: Addon, options: EngineOptions) {
    this.#onLog = options.onLog;
    try {
      this.native = new addon.NativeEngine(toNativeOptions(options), () => this.#takeEvents());
    } catch (thrown) {
      throw fromNative(thrown);
    }
    this.model = this.native.model();
    this.#textReady = this.#loadText(options);
    this.weightsComplete = this.#weights.promise;
    this.ready = Promise.all([this.weightsComplete, this.#textReady]).then(() => {});
    // Whoever does not wait for these learns of a failure from the next call.
    for (const promise of [this.weightsComplete, this.#textReady, this.ready]) promise.catch(() => {});
  }

  async #loadText(options: EngineOptions): Promise<void> {
    if (!options.tokenizerJson) return;
    const { tokenizerJson, tokenizerConfigJson, chatTemplate } = options;
    await this.#call(() =>
      this.native.loadText(tokenizerJson, tokenizerConfigJson ?? null, chatTemplate ?? null),
    );
  }

  expectedTensors(): ExpectedTensor[] {
    return this.native.expectedTensors();
  }

  push(tensor: PushedTensor): Promise<void> {
    this.#expectWeights();
    return this.#call(() => this.native.push(toNativeTensor(tensor), tensor.bytes));
  }

  pushMapped(tensor: MappedTensor): Promise<void> {
    this.#expectWeights();
    return this.#call(() => this.native.pushMapped(toNativeTensor(tensor), toNativePlace(tensor)));
  }

  /** From the first tensor on, somebody waits for the last. */
  #expectWeights(): void {
    if (this.#weightsExpected) return;
    this.#weightsExpected = true;
    this.#held(this.weightsComplete).catch(() => {});
  }

  async *generate(request: GenerateRequest, options: CallOptions = {}): AsyncIterableIterator<GenerateChunk> {
    const { signal } = options;
    if (signal?.aborted) {
      yield CANCELLED_BEFORE_START;
      return;
    }
    const id = this.#nextId++;
    const nativeRequest = toNativeRequest(id, request);
    const stream = new ChunkStream();
    const cancel = () => this.native.cancel(id);
    this.#streams.set(id, stream);
    signal?.addEventListener("abort", cancel, { once: true });
    this.#hold();
    let ended = false;
    try {
      await this.#textReady;
      if (signal?.aborted) {
        yield CANCELLED_BEFORE_START;
        return;
      }
      await this.#call(() => this.native.generate(nativeRequest));
      // An abort since then may have met a request that the addon did not know yet.
      if (signal?.aborted) cancel();
      let unreported = 0;
      while (!ended) {
        const chunk = await stream.next();
        ended = chunk.finishReason !== null;
        unreported += chunk.tokenIds.length;
        if (unreported >= CONSUMED_REPORT_TOKENS && !ended) {
          this.native.consumed(id, unreported);
          unreported = 0;
        }
        yield chunk;
      }
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#streams.delete(id);
      if (!ended) cancel();
      this.#release();
    }
  }

  async embed(
    inputs: readonly (string | readonly number[])[],
    options: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    const { signal, requestId } = options;
    if (signal?.aborted) throw cancelled();
    if (inputs.length === 0) return [];
    const id = this.#nextId++;
    const nativeInputs = inputs.map((input, index) => toNativeInput(input, `inputs[${index}]`));
    const result = Promise.withResolvers<Float32Array[]>();
    const cancel = () => {
      this.native.cancel(id);
      result.reject(cancelled());
    };
    this.#embeddings.set(id, result);
    signal?.addEventListener("abort", cancel, { once: true });
    result.promise.catch(() => {});
    try {
      await this.#textReady;
      await this.#call(() => this.native.embed(id, requestId ?? null, nativeInputs));
      if (signal?.aborted) cancel();
      return await this.#held(result.promise);
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#embeddings.delete(id);
    }
  }

  async tokenize(text: string, options: { addSpecialTokens?: boolean } = {}): Promise<number[]> {
    await this.#textReady;
    return this.#call(() => this.native.tokenize(text, options.addSpecialTokens ?? true));
  }

  async detokenize(tokenIds: readonly number[]): Promise<string> {
    await this.#textReady;
    return this.#call(() => this.native.detokenize(toTokenIds(tokenIds, "tokenIds")));
  }

  async renderChat(
    messages: readonly ChatMessage[],
    tools?: readonly unknown[] | null,
    templateVariables?: Record<string, unknown> | null,
  ): Promise<string> {
    await this.#textReady;
    const prompt = {
      messagesJson: toJson(messages, "messages"),
      toolsJson: toJson(tools, "tools"),
      templateVariablesJson: toJson(templateVariables, "templateVariables"),
      text: null,
      tokenIds: null,
    };
    return this.#call(() => this.native.renderChat(prompt));
  }

  stats(): EngineStats {
    return this.native.stats();
  }

  async quiesce(): Promise<void> {
    const done = Promise.withResolvers<void>();
    this.#quiescing.push(done);
    try {
      this.native.quiesce();
    } catch (thrown) {
      this.#quiescing = this.#quiescing.filter((other) => other !== done);
      throw fromNative(thrown);
    }
    await this.#held(done.promise);
  }

  resume(): void {
    try {
      this.native.resume();
    } catch (thrown) {
      throw fromNative(thrown);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#call(() => this.native.close()).then(() => this.#takeEvents());
    return this.#closing;
  }

  /** A call into the addon, whose errors become PlatformErrors. */
  async #call<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (thrown) {
      throw fromNative(thrown);
    }
  }

  async #held<T>(promise: Promise<T>): Promise<T> {
    this.#hold();
    try {
      return await promise;
    } finally {
      this.#release();
    }
  }

  /** The addon's notifications do not keep the process alive; an answer under way does. */
  #hold(): void {
    this.#open++;
    this.#keepAlive ??= setInterval(() => {}, KEEP_ALIVE_MS);
  }

  #release(): void {
    this.#open--;
    if (this.#open > 0) return;
    clearInterval(this.#keepAlive);
    this.#keepAlive = undefined;
  }

  #takeEvents(): void {
    for (const event of this.native.takeEvents()) this.#handle(event);
  }

  #handle(event: NativeEvent): void {
    switch (event.kind) {
      case "chunk": {
        const { tokenIds, text, logprobs, finishReason, usage } = event;
        const chunk = {
          tokenIds,
          text,
          logprobs: logprobs === null ? null : [logprobs],
          finishReason,
          usage,
        };
        this.#streams.get(event.id)?.push(chunk);
        return;
      }
      case "failed": {
        const error = fromEvent(event.errorJson);
        this.#streams.get(event.id)?.fail(error);
        this.#embeddings.get(event.id)?.reject(error);
        return;
      }
      case "embedded":
        this.#embeddings.get(event.id)?.resolve(split(event.values, event.dimensions));
        return;
      case "weightsComplete":
        this.#weights.resolve();
        return;
      case "quiesced":
        for (const waiting of this.#quiescing.splice(0)) waiting.resolve();
        return;
      case "ended":
        this.#end(fromEvent(event.errorJson));
        return;
      case "log":
        this.#log(event.level, event.message, JSON.parse(event.fieldsJson) as LogFields);
        return;
      default:
        event satisfies never;
    }
  }

  /** A logger that throws must not swallow the events behind its line. */
  #log(...line: Parameters<NonNullable<EngineOptions["onLog"]>>): void {
    try {
      this.#onLog?.(...line);
    } catch (thrown) {
      queueMicrotask(() => {
        throw thrown;
      });
    }
  }

  #end(error: PlatformError): void {
    this.#weights.reject(error);
    for (const stream of this.#streams.values()) stream.fail(error);
    for (const waiting of this.#embeddings.values()) waiting.reject(error);
    for (const waiting of this.#quiescing.splice(0)) waiting.reject(error);
  }
}

const CANCELLED_BEFORE_START: GenerateChunk = {
  tokenIds: [],
  text: "",
  logprobs: null,
  finishReason: "cancelled",
  usage: { promptTokens: 0, completionTokens: 0, queuedMs: 0, prefillMs: null, decodeMs: 0 },
};

function cancelled(): PlatformError {
  return new PlatformError("cancelled", "the request was cancelled");
}

function split(values: Float32Array, dimensions: number): Float32Array[] {
  return Array.from({ length: values.length / dimensions }, (_, index) =>
    values.slice(index * dimensions, (index + 1) * dimensions),
  );
}
