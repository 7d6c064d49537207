import { describe, expect, test } from "vitest";
import type { TensorReady } from "./events.ts";
import { rankView } from "./rank.ts";

const files = (config: object) => new Map([["config.json", Buffer.from(JSON.stringify(config))]]);
const HEADS = { num_attention_heads: 4, num_key_value_heads: 2 };

const tensor = (name: string, shape: number[]): TensorReady => {
  const length = shape.reduce((a, b) => a * b, 2);
  return {
    kind: "tensor",
    name,
    dtype: "BF16",
    shape,
    path: "/segment",
    offset: 1000,
    length,
    runBytes: length,
    strideBytes: length,
    runs: 1,
  };
};

describe("a rank's view", () => {
  test("of one rank is everything whole", () => {
    const whole = tensor("model.layers.0.self_attn.q_proj.weight", [8, 8]);
    expect(rankView(new Map(), { rank: 0, ranks: 0 }).slice(whole)).toEqual(whole);
  });
  test("has rows in one piece and columns in many", () => {
    const view = rankView(files(HEADS), { rank: 1, ranks: 2 }).slice;
    expect(view(tensor("model.layers.0.self_attn.q_proj.weight", [8, 8]))).toMatchObject({
      shape: [4, 8],
      offset: 1064,
      length: 64,
      runs: 1,
    });
    expect(view(tensor("model.layers.0.mlp.down_proj.weight", [8, 8]))).toMatchObject({
      shape: [8, 4],
      offset: 1008,
      length: 64,
      runBytes: 8,
      strideBytes: 16,
      runs: 8,
    });
    expect(view(tensor("model.norm.weight", [8]))).toMatchObject({ shape: [8], offset: 1000, length: 16 });
  });
  test("finds the decoder's heads in a model of several modalities", () => {
    const view = rankView(files({ text_config: HEADS }), { rank: 0, ranks: 4 }).slice;
    expect(view(tensor("model.layers.0.self_attn.k_proj.weight", [4, 8]))?.shape).toEqual([2, 8]);
  });
  test("of a mixture of experts has its own experts whole, no others, and its slice of the rest", () => {
    const group = { rank: 1, ranks: 2, expertParallel: true };
    const view = rankView(files({ ...HEADS, num_local_experts: 4 }), group).slice;
    const experts = [0, 1, 2, 3].map((i) =>
      view(tensor(`model.layers.0.mlp.experts.${i}.up_proj.weight`, [8, 8])),
    );
    expect(experts.map((one) => one?.shape)).toEqual([undefined, undefined, [8, 8], [8, 8]]);
    expect(view(tensor("model.layers.0.self_attn.q_proj.weight", [8, 8]))?.shape).toEqual([4, 8]);
    expect(view(tensor("model.layers.0.mlp.gate.weight", [4, 8]))?.shape).toEqual([4, 8]);
    expect(() => rankView(files(HEADS), group)).toThrow("how many experts");
  });
  test("needs a rank that exists and a config that names heads", () => {
    expect(() => rankView(files(HEADS), { rank: 2, ranks: 2 })).toThrow("rank 2 of 2");
    expect(() => rankView(files({}), { rank: 0, ranks: 2 })).toThrow("how many heads");
    expect(() => rankView(new Map([["config.json", Buffer.from("null")]]), { rank: 0, ranks: 2 })).toThrow(
      "how many",
    );
  });
});
