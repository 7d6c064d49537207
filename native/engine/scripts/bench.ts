// Speed of the engine on a model repository (a folder with config.json and model.safetensors):
//   node native/engine/scripts/bench.ts DIR [--threads N] [--tokens N] [--streams 1,4,8,16]
// Prints one JSON line: tokens/s of decoding by number of concurrent streams, of prefill, and memory.

import { openSync, readFileSync, readSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { createEngine, type Engine } from "../src/index.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: String(availableParallelism()) },
    tokens: { type: "string", default: "64" },
    streams: { type: "string", default: "1,4,8,16" },
    repeats: { type: "string", default: "3" },
  },
});
const [directory] = positionals;
if (directory === undefined)
  throw new Error("usage: bench.ts DIR [--threads N] [--tokens N] [--streams 1,4,8,16]");

/** Maps the tensors of the folder's one safetensors file into the engine. */
async function load(engine: Engine, path: string): Promise<void> {
  const file = openSync(path, "r");
  const size = Buffer.alloc(8);
  readSync(file, size, 0, 8, 0);
  const header = Buffer.alloc(Number(size.readBigUInt64LE()));
  readSync(file, header, 0, header.length, 8);
  type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };
  const { __metadata__, ...tensors } = JSON.parse(header.toString()) as Record<string, Entry>;
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(tensors)) {
    await engine.pushMapped({
      name,
      dtype,
      shape,
      path,
      offset: 8 + header.length + from,
      length: to - from,
    });
  }
}

const engine = await createEngine({
  configJson: readFileSync(`${directory}/config.json`, "utf8"),
  threads: Number(values.threads),
});
await load(engine, `${directory}/model.safetensors`);
await engine.ready;

const prompt = (length: number, salt: number) =>
  Array.from({ length }, (_, i) => (i * 7919 + salt * 104_729) % engine.model.vocabularySize);

/** Tokens per second from the first token of all streams to the last of all. */
async function decode(streams: number): Promise<number> {
  const tokens = Number(values.tokens);
  let started = 0;
  let counted = 0;
  const seen = new Set<number>();
  const stream = async (index: number) => {
    const request = { promptTokenIds: prompt(32, index), temperature: 0, maxTokens: tokens, ignoreEos: true };
    for await (const chunk of engine.generate(request)) {
      seen.add(index);
      if (started > 0) counted += chunk.tokenIds.length;
      else if (seen.size === streams) started = performance.now();
    }
  };
  await Promise.all(Array.from({ length: streams }, (_, index) => stream(index)));
  return counted / ((performance.now() - started) / 1e3);
}

async function prefill(length: number): Promise<number> {
  const started = performance.now();
  const request = { promptTokenIds: prompt(length, 1), temperature: 0, maxTokens: 1, ignoreEos: true };
  for await (const _ of engine.generate(request));
  return length / ((performance.now() - started) / 1e3);
}

/** The best of several runs: other work on the machine only ever makes a run slower. */
async function best(run: () => Promise<number>): Promise<number> {
  let most = 0;
  for (let i = 0; i < Number(values.repeats); i++) most = Math.max(most, await run());
  return Math.round(most * 10) / 10;
}

const memory = (field: string) => {
  const line = readFileSync("/proc/self/smaps_rollup", "utf8").match(new RegExp(`^${field}:\\s+(\\d+)`, "m"));
  return Math.round(Number(line?.[1]) / 1024);
};

await prefill(64);
const result: Record<string, unknown> = { ...engine.model };
for (const streams of values.streams.split(",").map(Number)) {
  result[`decode${streams}TokensPerS`] = await best(() => decode(streams));
}
const context = engine.model.contextTokensMax;
for (const length of [256, 1024].filter((length) => length < context)) {
  result[`prefill${length}TokensPerS`] = await best(() => prefill(length));
}
result.rssMiB = memory("Rss");
result.privateMiB = memory("Private_Clean") + memory("Private_Dirty");
result.anonymousMiB = memory("Anonymous");
console.log(JSON.stringify(result));
await engine.close();
