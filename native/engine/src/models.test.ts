import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { createEngineWith, type EmbeddedEngine } from "./engine.ts";
import {
  answer,
  builtAddon,
  expected,
  fixtureOptions,
  fixtureTensors,
  fixtureText,
  startEngine,
} from "./fixtures.ts";
import type { Addon } from "./native.ts";

const BUILD_TIMEOUT_MS = 900_000;
const DECODERS = ["llama", "llama3-bias", "qwen2", "qwen3", "mistral"];

let addon: Addon;
beforeAll(async () => {
  addon = await builtAddon();
}, BUILD_TIMEOUT_MS);

async function using<T>(engine: EmbeddedEngine, use: (engine: EmbeddedEngine) => Promise<T>): Promise<T> {
  try {
    return await use(engine);
  } finally {
    await engine.close();
  }
}

describe.each(DECODERS)("%s", (model) => {
  test("greedy answers in bf16 are those of transformers, all twenty at once", async () => {
    await using(await startEngine(addon, model, { dtype: "bf16", kvTokensMax: 2_048 }), async (engine) => {
      const cases = expected(model).greedyBf16;
      const answers = await Promise.all(
        cases.map(({ prompt, answer: { length } }) =>
          answer(engine, { promptTokenIds: prompt, temperature: 0, maxTokens: length, ignoreEos: true }),
        ),
      );
      expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(cases.map((one) => one.answer));
    });
  });

  test("log probabilities in f32 are those of transformers", async () => {
    await using(await startEngine(addon, model, { dtype: "f32" }), async (engine) => {
      for (const { tokens, last } of expected(model).logits) {
        const { chunks } = await answer(engine, {
          promptTokenIds: tokens,
          temperature: 0,
          maxTokens: 1,
          logprobs: 20,
        });
        const total = Math.log(last.reduce((sum, logit) => sum + Math.exp(logit), 0));
        const first = chunks[0]?.logprobs?.[0];
        expect(first?.top).toHaveLength(20);
        for (const { tokenId, logprob } of first?.top ?? []) {
          expect(Math.abs(logprob - (last[tokenId]! - total))).toBeLessThan(1e-3);
        }
      }
    });
  });
});

test("sentence embeddings are those of transformers, and of length one", async () => {
  await using(await startEngine(addon, "bert", { dtype: "f32" }), async (engine) => {
    const cases = expected("bert").embeddings;
    const vectors = await engine.embed(cases.map(({ tokens }) => tokens));
    vectors.forEach((vector, index) => {
      vector.forEach((value, i) => {
        expect(Math.abs(value - cases[index]!.mean[i]!)).toBeLessThan(1e-3);
      });
    });
  });
});

describe("weights", () => {
  test("tensors are taken in any order, copied or mapped, and the last one completes the model", async () => {
    await using(createEngineWith(addon, fixtureOptions("qwen3")), async (engine) => {
      const tensors = fixtureTensors("qwen3").reverse();
      const required = engine.expectedTensors().filter(({ required }) => required);
      expect(required.map(({ name }) => name).sort()).toEqual(tensors.map(({ name }) => name).sort());
      for (const [index, tensor] of tensors.entries()) {
        expect(engine.stats()).toMatchObject({ state: "loading", tensorsReceived: index });
        if (index % 2 === 0) await engine.pushMapped(tensor);
        else {
          const bytes = readFileSync(tensor.path).subarray(tensor.offset, tensor.offset + tensor.length);
          await engine.push({ ...tensor, bytes });
        }
      }
      await engine.weightsComplete;
      const { weightBytesMapped, weightBytesOwned } = engine.stats();
      expect(weightBytesMapped).toBeGreaterThan(0);
      expect(weightBytesOwned).toBeGreaterThan(0);
      const { prompt, answer: known } = expected("qwen3").greedyBf16[0]!;
      const { tokenIds } = await answer(engine, {
        promptTokenIds: prompt,
        temperature: 0,
        maxTokens: known.length,
      });
      expect(tokenIds).toEqual(known);
    });
  });

  test("a request that comes before the weights waits for them", async () => {
    await using(createEngineWith(addon, fixtureOptions("llama")), async (engine) => {
      const early = answer(engine, { text: "hello", temperature: 0, maxTokens: 4 });
      await Promise.all(fixtureTensors("llama").map((tensor) => engine.pushMapped(tensor)));
      expect((await early).tokenIds).toHaveLength(4);
    });
  });

  test.each([
    ["an unknown name", { name: "model.layers.9.mlp.up_proj.weight" }, "invalidArgument", "name"],
    ["another shape", { shape: [96, 47] }, "invalidArgument", "shape"],
    ["another length", { length: 10 }, "invalidArgument", "length"],
    ["an unsupported type", { dtype: "F8_E4M3" }, "unsupported", "dtype"],
    ["a file that is not there", { path: "/nonexistent" }, "notFound", "path"],
    ["bytes behind the end of the file", { offset: 1e9 }, "corrupt", "offset"],
    ["a negative offset", { offset: -2 }, "invalidArgument", "offset"],
    ["a fractional shape", { shape: [0.5, Number.NaN] }, "invalidArgument", "shape"],
  ])("%s is refused, and the right tensor is still taken", async (_, change, code, field) => {
    await using(createEngineWith(addon, fixtureOptions("qwen2")), async (engine) => {
      const tensor = fixtureTensors("qwen2").find(({ name }) => name === "lm_head.weight")!;
      await expect(engine.pushMapped({ ...tensor, ...change })).rejects.toMatchObject({ code, field });
      await engine.pushMapped(tensor);
      await expect(engine.pushMapped(tensor)).rejects.toMatchObject({ code: "alreadyExists" });
    });
  });
});

describe("what the engine does not compute is refused by name", () => {
  test.each([
    ["config.architectures", "unsupported", { configJson: '{"architectures":["GPT2LMHeadModel"]}' }],
    ["config", "invalidArgument", { configJson: "not json" }],
    ["options.device", "unsupported", { device: "cuda" as "cpu" }],
    ["options.dtype", "invalidArgument", { dtype: "int4" as "f32" }],
    ["options.threads", "invalidArgument", { threads: 0 }],
    ["options.kvTokensMax", "invalidArgument", { kvTokensMax: 1e18 }],
    ["options.waitingMax", "invalidArgument", { waitingMax: 1.5 }],
    ["generationConfig.eos_token_id", "invalidArgument", { generationConfigJson: '{"eos_token_id":"x"}' }],
  ])("%s", (field, code, change) => {
    const create = () => createEngineWith(addon, { ...fixtureOptions("llama"), ...change });
    expect(create).toThrow(expect.objectContaining({ code, field }));
  });

  test("a broken tokenizer is reported by ready and by each request", async () => {
    await using(
      createEngineWith(addon, { ...fixtureOptions("llama"), tokenizerJson: "{}" }),
      async (engine) => {
        const refused = { code: "invalidArgument", field: "tokenizer" };
        await expect(engine.ready).rejects.toMatchObject(refused);
        await expect(answer(engine, { text: "x" })).rejects.toMatchObject(refused);
      },
    );
  });
});

describe("chat templates", () => {
  type Templates = {
    templates: Record<string, string>;
    cases: {
      template: string;
      messages: [];
      tools: [] | null;
      variables: Record<string, unknown>;
      text: string;
    }[];
  };
  const { templates, cases } = JSON.parse(fixtureText("templates.json")) as Templates;

  test.each(cases)(
    "$template renders as transformers does",
    async ({ template, messages, tools, variables, text }) => {
      const options = { ...fixtureOptions("llama"), chatTemplate: templates[template]! };
      await using(createEngineWith(addon, options), async (engine) => {
        expect(await engine.renderChat(messages, tools, variables)).toBe(text);
      });
    },
  );

  test("text survives tokenising, special tokens are left out of it", async () => {
    await using(createEngineWith(addon, fixtureOptions("llama")), async (engine) => {
      const text = "<|user|>Grüße, 世界 😀";
      const tokens = await engine.tokenize(text);
      expect(tokens[0]).toBe(258);
      expect(await engine.detokenize(tokens)).toBe("Grüße, 世界 😀");
    });
  });
});
