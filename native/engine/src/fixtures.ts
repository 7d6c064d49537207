// Tiny models for the tests (scripts/make_fixtures.py), handed to an engine tensor by tensor.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildEngine } from "../build.mjs";
import { createEngineWith, type EmbeddedEngine } from "./engine.ts";
import { type Addon, loadAddon } from "./native.ts";
import type { EngineOptions, GenerateChunk, GenerateRequest, MappedTensor } from "./types.ts";

export type Expected = {
  logits: { tokens: number[]; last: number[] }[];
  greedyBf16: { prompt: number[]; answer: number[] }[];
  embeddings: { tokens: number[]; mean: number[]; first: number[] }[];
};

/** The addon of the checkout's sources; a variant with panics on demand when asked for. */
export async function builtAddon(features: string[] = []): Promise<Addon> {
  return loadAddon((await buildEngine({ features })).path);
}

const path = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));

export function fixtureText(name: string): string {
  return readFileSync(path(name), "utf8");
}

export function expected(model: string): Expected {
  return JSON.parse(fixtureText(`${model}/expected.json`)) as Expected;
}

/** What a fixture's repository says, with `config` laid over its config.json. */
export function fixtureOptions(model: string, config: Record<string, unknown> = {}): EngineOptions {
  const optional = (name: string) =>
    existsSync(path(`${model}/${name}`)) ? fixtureText(`${model}/${name}`) : null;
  return {
    configJson: JSON.stringify({ ...JSON.parse(fixtureText(`${model}/config.json`)), ...config }),
    tokenizerJson: optional("tokenizer.json"),
    tokenizerConfigJson: optional("tokenizer_config.json"),
    threads: 2,
    kvTokensMax: 1_024,
  };
}

/** The tensors of a fixture, as its safetensors header lists them. */
export function fixtureTensors(model: string): MappedTensor[] {
  const file = path(`${model}/model.safetensors`);
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };
  const header = JSON.parse(bytes.toString("utf8", 8, start)) as Record<string, Entry>;
  return Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => {
        return { name, dtype, shape, path: file, offset: start + from, length: to - from };
      },
    );
}

/** A ready engine on a fixture. */
export async function startEngine(
  addon: Addon,
  model: string,
  options: Partial<EngineOptions> = {},
  config: Record<string, unknown> = {},
): Promise<EmbeddedEngine> {
  const engine = createEngineWith(addon, { ...fixtureOptions(model, config), ...options });
  await Promise.all(fixtureTensors(model).map((tensor) => engine.pushMapped(tensor)));
  await engine.ready;
  return engine;
}

export type Answer = Omit<GenerateChunk, "logprobs"> & { chunks: GenerateChunk[] };

/** A whole answer, its chunks joined. */
export async function answer(engine: EmbeddedEngine, request: GenerateRequest): Promise<Answer> {
  const chunks: GenerateChunk[] = [];
  for await (const chunk of engine.generate(request)) chunks.push(chunk);
  const last = chunks.at(-1);
  return {
    chunks,
    tokenIds: chunks.flatMap((chunk) => chunk.tokenIds),
    text: chunks.map((chunk) => chunk.text).join(""),
    finishReason: last?.finishReason ?? null,
    usage: last?.usage ?? null,
  };
}
