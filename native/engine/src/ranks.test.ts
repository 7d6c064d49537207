// A model that arrives as the slices of a tensor-parallel group, cut by the code that cuts them for the weight streamer.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decoderSplit, sliceForRank, type TensorEntry } from "@pilotlight/safetensors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEngineWith, type EmbeddedEngine } from "./engine.ts";
import { answer, builtAddon, expected, fixtureOptions, fixtureTensors, fixtureText } from "./fixtures.ts";
import type { Addon } from "./native.ts";
import type { MappedTensor } from "./types.ts";

const BUILD_TIMEOUT_MS = 900_000;
const DECODERS = ["llama", "llama3-bias", "qwen2", "qwen3", "mistral"];

let addon: Addon;
let folder: string;
const engines: EmbeddedEngine[] = [];
beforeAll(async () => {
  addon = await builtAddon();
  folder = mkdtempSync(join(tmpdir(), "pilotlight-ranks-"));
}, BUILD_TIMEOUT_MS);
afterAll(async () => {
  await Promise.all(engines.map((engine) => engine.close()));
  rmSync(folder, { recursive: true });
});

/** What one rank has of a fixture: where it lies in the whole. */
function slicesOf(model: string, rank: number, ranks: number): Required<MappedTensor>[] {
  const config = JSON.parse(fixtureText(`${model}/config.json`)) as Record<string, number>;
  const { num_attention_heads: attentionHeads = 0, num_key_value_heads: keyValueHeads = 0 } = config;
  return fixtureTensors(model).map((tensor) => {
    const split = decoderSplit(tensor.name, { attentionHeads, keyValueHeads });
    const entry = { ...tensor, dtype: tensor.dtype as TensorEntry["dtype"], shape: [...tensor.shape] };
    const slice = sliceForRank(entry, split, { rank, ranks });
    return { ...slice, rank, path: tensor.path };
  });
}

const bytesOf = ({ path, offset, length, runs, strideBytes }: Required<MappedTensor>): Buffer => {
  const file = readFileSync(path);
  const begin = (run: number) => offset + run * strideBytes;
  return Buffer.concat(
    Array.from({ length: runs }, (_, run) => file.subarray(begin(run), begin(run) + length / runs)),
  );
};

/** The same in a file of the rank's own, each tensor in one piece. */
function cut(slices: Required<MappedTensor>[], path: string): MappedTensor[] {
  const pieces = slices.map(bytesOf);
  writeFileSync(path, Buffer.concat(pieces));
  let offset = 0;
  return slices.map(({ name, rank, dtype, shape }, i) => {
    const length = pieces[i]?.length ?? 0;
    offset += length;
    return { name, rank, dtype, shape, path, offset: offset - length, length };
  });
}

const start = (model: string, tensorParallel: number, dtype: "bf16" | "f32") => {
  const engine = createEngineWith(addon, { ...fixtureOptions(model), tensorParallel, dtype });
  engines.push(engine);
  return engine;
};

const greedy = (engine: EmbeddedEngine, model: string) =>
  Promise.all(
    expected(model).greedyBf16.map(({ prompt, answer: { length } }) =>
      answer(engine, { promptTokenIds: prompt, temperature: 0, maxTokens: length, ignoreEos: true }),
    ),
  );

describe.each([2, 4])("%d ranks", (ranks) => {
  test.each(DECODERS)(
    "%s answers as transformers does, and nothing of its slices is copied",
    async (model) => {
      const engine = start(model, ranks, "bf16");
      const slices = Array.from({ length: ranks }, (_, rank) => slicesOf(model, rank, ranks)).flat();
      await Promise.all(slices.map((slice) => engine.pushMapped(slice)));
      await engine.ready;
      const answers = await greedy(engine, model);
      expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(
        expected(model).greedyBf16.map((one) => one.answer),
      );
      expect(engine.model.tensorParallel).toBe(ranks);
      const bytes = fixtureTensors(model).reduce((sum, { length }) => sum + length, 0);
      // What every rank brings alike is held once.
      expect(engine.stats()).toMatchObject({
        tensorsExpected: slices.length,
        tensorsReceived: slices.length,
        weightBytesMapped: bytes,
        weightBytesOwned: 0,
      });
    },
  );

  test.each(DECODERS)("%s from folders of the ranks' own, mapped or copied", async (model) => {
    const engine = start(model, ranks, "bf16");
    for (let rank = ranks - 1; rank >= 0; rank--) {
      const slices = slicesOf(model, rank, ranks);
      if (rank % 2 === 0) for (const slice of slices) await engine.push({ ...slice, bytes: bytesOf(slice) });
      else
        for (const tensor of cut(slices, join(folder, `${model}-${rank}-${ranks}`)))
          await engine.pushMapped(tensor);
    }
    await engine.ready;
    const answers = await greedy(engine, model);
    expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(
      expected(model).greedyBf16.map((one) => one.answer),
    );
  });
});

test("each rank's slices are the ones that the engine expects of it", () => {
  const ranks = 4;
  const wanted = start("qwen3", ranks, "f32")
    .expectedTensors()
    .filter(({ required }) => required)
    .map(({ name, shape }) => [name, shape] as const);
  for (let rank = 0; rank < ranks; rank++) {
    const shapes = slicesOf("qwen3", rank, ranks).map(({ name, shape }) => [name, [...shape]] as const);
    expect(new Map(shapes)).toEqual(new Map(wanted));
  }
});

describe("what is refused", () => {
  test.each([
    [
      "a rank outside the group",
      { rank: 4 },
      "invalidArgument",
      "rank",
      "rank 4 does not exist in a group of 4",
    ],
    ["runs of another number", { runs: 7 }, "invalidArgument", "runs", "o_proj.weight of rank 1"],
    ["runs that overlap", { strideBytes: 2 }, "invalidArgument", "strideBytes", "o_proj.weight of rank 1"],
    ["runs behind the file's end", { strideBytes: 1e6 }, "corrupt", "offset", "runs every 1000000"],
    [
      "a whole tensor",
      { shape: [48, 48] },
      "invalidArgument",
      "shape",
      "config.json asks for [48, 12] of 4 ranks",
    ],
  ])("%s, and the right slice is still taken", async (_, change, code, field, message) => {
    const engine = start("llama", 4, "f32");
    const slice = slicesOf("llama", 1, 4).find(({ name }) => name.endsWith("1.self_attn.o_proj.weight"))!;
    await expect(engine.pushMapped({ ...slice, ...change })).rejects.toMatchObject({
      code,
      field,
      message: expect.stringContaining(message) as string,
    });
    await engine.pushMapped(slice);
    await expect(engine.pushMapped(slice)).rejects.toMatchObject({ code: "alreadyExists" });
  });

  test("slices of two models in one group", async () => {
    const engine = start("llama", 2, "bf16");
    const norm = slicesOf("llama", 0, 2).find(({ name }) => name === "model.norm.weight")!;
    await engine.push({ ...norm, bytes: bytesOf(norm) });
    await expect(engine.push({ ...norm, rank: 1, bytes: Buffer.alloc(norm.length) })).rejects.toMatchObject({
      code: "corrupt",
      message: "model.norm.weight of rank 1 differs from what another rank brought",
    });
  });

  test.each([
    ["llama", 3, "invalidArgument", "which does not divide the model's 4 attention heads"],
    ["llama", 65, "invalidArgument", "options.tensorParallel"],
    ["bert", 2, "unsupported", "is not divided between ranks"],
  ])("%s with %d ranks, before any weights", (model, ranks, code, message) => {
    const create = () => createEngineWith(addon, { ...fixtureOptions(model), tensorParallel: ranks });
    expect(create).toThrow(
      expect.objectContaining({
        code,
        field: "options.tensorParallel",
        message: expect.stringContaining(message) as string,
      }),
    );
  });
});
