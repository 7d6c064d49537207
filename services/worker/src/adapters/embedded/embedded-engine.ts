// The platform's own engine: built from tensors as the weight streamer brings them, asked in the OpenAI API's terms.
import { AsyncLocalStorage } from "node:async_hooks";
import { hash } from "node:crypto";
import { type EmbeddedEngine as EngineSpec, ReplicaPhase, type TensorReady } from "@pilotlight/contracts";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  type GenerateRequest,
  type LogFields,
  type LogLevel,
  type MappedTensor,
} from "@pilotlight/engine";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type Checked, checkChatCompletion, checkCompletion, checkEmbeddings } from "@pilotlight/openai";
import { logger } from "@pilotlight/telemetry";
import type { Answer, EngineCall, EngineLoad, ReplicaEngine } from "../../engine.ts";
import { openWeights, type WeightLease, type WeightSettings } from "../weights.ts";
import { type AnswerContext, streamedAnswer, wholeAnswer } from "./answers.ts";
import { embeddings } from "./embeddings.ts";
import { inClientsWords } from "./errors.ts";
import { chatRequest, completionRequest } from "./request.ts";
import { TokenTexts } from "./token-texts.ts";

export type EmbeddedSettings = { spec: EngineSpec; modelName: string; weights: WeightSettings };

/** How often to look whether the engine is still well. */
const WATCH_INTERVAL_MS = 1_000;
const IDLE: EngineLoad = {
  running: 0,
  waiting: 0,
  kvTokensUsed: 0,
  kvTokensMax: 0,
  promptTokensTotal: 0,
  outputTokensTotal: 0,
};

type Started = { engine: Engine; texts: TokenTexts };

export class EmbeddedReplicaEngine implements ReplicaEngine {
  readonly inFlightMax: number;
  readonly #settings: EmbeddedSettings;
  readonly #fingerprint: string;
  /** Contexts of open requests: the engine's lines about a request belong to it. */
  readonly #contexts = new Map<string, <T>(work: () => T) => T>();
  #started: Started | null = null;
  #lease: WeightLease | null = null;
  #watch: NodeJS.Timeout | null = null;

  constructor(settings: EmbeddedSettings) {
    this.#settings = settings;
    this.inFlightMax = settings.spec.sequencesMax || SEQUENCES_DEFAULT;
    const { source, ranks } = settings.weights;
    const identity = JSON.stringify([source, settings.spec.dtype, ranks]);
    this.#fingerprint = `pl_${hash("sha256", identity).slice(0, 12)}`;
  }

  async start(mark: (phase: ReplicaPhase) => void): Promise<void> {
    this.#lease = openWeights(this.#settings.weights, {
      onFiles: async (files) => {
        const engine = await createEngine({
          ...filesOf(files),
          ...optionsOf(this.#settings.spec),
          onLog: (...line) => this.#log(...line),
        });
        this.#started = { engine, texts: new TokenTexts(engine) };
      },
      onTensor: (tensor, rank) => {
        mark(ReplicaPhase.FIRST_BYTE);
        return this.#engine().pushMapped(mapped(tensor, rank));
      },
    });
    await this.#lease.loaded;
    mark(ReplicaPhase.LAST_BYTE);
    const engine = this.#engine();
    checkComplete(engine);
    await engine.ready;
    mark(ReplicaPhase.ENGINE_READY);
    await warmUp(engine);
    const { architecture, kind, contextTokensMax, threads, instructionSet, tensorParallel } = engine.model;
    const settings = { contextTokensMax, threads, instructionSet, tensorParallel };
    logger("engine").info("engine ready", { architecture, kind, ...settings });
  }

  chat(call: EngineCall): Promise<Answer> {
    return this.#inContext(call, "messages", () => {
      const request = valid(checkChatCompletion(call.body));
      const usage = request.stream_options?.include_usage === true;
      return this.#generate("chat", chatRequest(request, call), call, request.stream === true, usage);
    });
  }

  complete(call: EngineCall): Promise<Answer> {
    return this.#inContext(call, "prompt", () => {
      const request = valid(checkCompletion(call.body));
      const usage = request.stream_options?.include_usage === true;
      return this.#generate(
        "completion",
        completionRequest(request, call),
        call,
        request.stream === true,
        usage,
      );
    });
  }

  embed(call: EngineCall): Promise<Answer> {
    return this.#inContext(call, "input", () => {
      const request = valid(checkEmbeddings(call.body));
      const engine = this.#engine();
      if (engine.model.kind === "encoder") return embeddings(engine, request, call, this.#settings.modelName);
      throw new PlatformError("invalidArgument", "this model writes text, it makes no embeddings", {
        field: "model",
        remedy: "Ask a model whose task is embeddings, or use /v1/chat/completions.",
      });
    });
  }

  load(): EngineLoad {
    if (this.#started === null) return IDLE;
    const stats = this.#started.engine.stats();
    return {
      running: stats.running,
      waiting: stats.waiting,
      kvTokensUsed: stats.kvTokensUsed,
      kvTokensMax: stats.kvTokensMax,
      promptTokensTotal: stats.promptTokensTotal + stats.embeddedTokensTotal,
      outputTokensTotal: stats.generatedTokensTotal,
    };
  }

  onFailure(listener: (error: PlatformError) => void): void {
    this.#watch = setInterval(() => {
      const stats = this.#started?.engine.stats();
      if (stats?.state !== "failed") return;
      if (this.#watch !== null) clearInterval(this.#watch);
      listener(new PlatformError("internal", `the engine failed: ${stats.failure ?? "no reason is known"}`));
    }, WATCH_INTERVAL_MS);
    this.#watch.unref();
  }

  quiesce(): Promise<void> {
    return this.#engine().quiesce();
  }

  async resume(): Promise<void> {
    this.#engine().resume();
  }

  async close(): Promise<void> {
    if (this.#watch !== null) clearInterval(this.#watch);
    await this.#started?.engine.close();
    this.#lease?.close();
  }

  async #generate(
    kind: AnswerContext["kind"],
    request: GenerateRequest,
    call: EngineCall,
    isStream: boolean,
    includeUsage: boolean,
  ): Promise<Answer> {
    const { engine, texts } = this.#ready();
    if (engine.model.kind !== "decoder") {
      throw new PlatformError("invalidArgument", "this model makes embeddings, it writes no text", {
        field: "model",
        remedy: "Use /v1/embeddings.",
      });
    }
    const pieces = engine.generate(request, { signal: call.signal });
    const context: AnswerContext = {
      kind,
      call,
      modelName: this.#settings.modelName,
      fingerprint: this.#fingerprint,
      texts,
      includeUsage,
      now: Date.now(),
    };
    return isStream ? streamedAnswer(pieces, context) : wholeAnswer(pieces, context);
  }

  /** Runs a request so that the engine's lines and errors are the request's own. */
  async #inContext(call: EngineCall, promptField: string, work: () => Promise<Answer>): Promise<Answer> {
    this.#contexts.set(call.requestId, AsyncLocalStorage.snapshot());
    const forget = () => void this.#contexts.delete(call.requestId);
    try {
      const answer = await work();
      if (answer.kind === "stream")
        return { ...answer, parts: translated(answer.parts, promptField, forget) };
      forget();
      return answer;
    } catch (thrown) {
      forget();
      throw inClientsWords(toPlatformError(thrown), promptField);
    }
  }

  #log(level: LogLevel, message: string, { requestId, ...fields }: LogFields): void {
    const write = () => logger("engine")[level](message, fields);
    const inRequest = typeof requestId === "string" ? this.#contexts.get(requestId) : undefined;
    if (inRequest === undefined)
      logger("engine")[level](message, requestId === undefined ? fields : { ...fields, requestId });
    else inRequest(write);
  }

  #engine(): Engine {
    return this.#ready().engine;
  }

  #ready(): Started {
    if (this.#started === null) throw new PlatformError("unavailable", "the engine has not started yet");
    return this.#started;
  }
}

/** The engine's own default, so that the gateway knows the number. */
const SEQUENCES_DEFAULT = 32;

async function* translated(
  parts: AsyncIterator<Buffer | string>,
  promptField: string,
  onEnd: () => void,
): AsyncGenerator<Buffer | string> {
  try {
    for (let step = await parts.next(); step.done !== true; step = await parts.next()) yield step.value;
  } catch (thrown) {
    throw inClientsWords(toPlatformError(thrown), promptField);
  } finally {
    onEnd();
    await parts.return?.();
  }
}

function valid<T>(checked: Checked<T>): T {
  if (checked.kind === "invalid") throw checked.error;
  return checked.request;
}

/** Every tensor of the repository was taken in; the model may still need others. */
function checkComplete(engine: Engine): void {
  const { tensorsExpected, tensorsReceived } = engine.stats();
  if (tensorsReceived >= tensorsExpected) return;
  throw new PlatformError(
    "corrupt",
    `the repository holds ${tensorsReceived} of the ${tensorsExpected} tensors that its config.json asks for`,
    { remedy: "Compare the repository with its origin, or add the model again." },
  );
}

/** One token, so that ready means that tokens come. */
async function warmUp(engine: Engine): Promise<void> {
  if (engine.model.kind === "encoder") await engine.embed([[0]]);
  else {
    const request = { promptTokenIds: [0], maxTokens: 1, temperature: 0, ignoreEos: true };
    for await (const _ of engine.generate(request));
  }
}

function filesOf(files: ReadonlyMap<string, Uint8Array>) {
  const text = (name: string): string | null => {
    const bytes = files.get(name);
    return bytes === undefined ? null : Buffer.from(bytes).toString("utf8");
  };
  const configJson = text("config.json");
  if (configJson === null) {
    throw new PlatformError("invalidArgument", "the model's repository has no config.json", {
      remedy: "Name a repository in the layout of Hugging Face.",
    });
  }
  return {
    configJson,
    tokenizerJson: text("tokenizer.json"),
    tokenizerConfigJson: text("tokenizer_config.json"),
    chatTemplate: text("chat_template.jinja"),
    generationConfigJson: text("generation_config.json"),
    modulesJson: text("modules.json"),
    poolingConfigJson: text("1_Pooling/config.json"),
  };
}

/** 0 in the specification means the engine's own default. */
function optionsOf(spec: EngineSpec): Partial<EngineOptions> {
  const { dtype, threads, kvTokensMax, contextTokensMax, sequencesMax, tensorParallel } = spec;
  return {
    dtype: dtype === "f32" || dtype === "bf16" ? dtype : "auto",
    ...(threads > 0 ? { threads } : {}),
    ...(kvTokensMax > 0 ? { kvTokensMax } : {}),
    ...(contextTokensMax > 0 ? { contextTokensMax } : {}),
    ...(sequencesMax > 0 ? { sequencesMax } : {}),
    ...(tensorParallel > 0 ? { tensorParallel } : {}),
  };
}

const mapped = (
  { name, dtype, shape, path, offset, length, runs, strideBytes }: TensorReady,
  rank: number,
): MappedTensor => ({
  name,
  rank,
  dtype,
  shape: shape.map(Number),
  path,
  offset: Number(offset),
  length: Number(length),
  runs: Number(runs) || 1,
  strideBytes: Number(strideBytes),
});
