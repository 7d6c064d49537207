import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { TensorEntry } from "./header.ts";
import { decoderSplit, expertSlice, sliceDimension, sliceForRank, type TensorSlice } from "./slices.ts";

const tensor = (shape: number[], dtype: TensorEntry["dtype"] = "U8"): TensorEntry => {
  return { name: "t", dtype, shape, offset: 100, length: shape.reduce((a, b) => a * b, 1) };
};

/** The bytes that a slice picks out of a file whose byte i has the value i. */
function offsetsOf(slice: TensorSlice): number[] {
  return Array.from({ length: slice.runs }, (_, run) =>
    Array.from({ length: slice.runBytes }, (_, i) => slice.offset + run * slice.strideBytes + i),
  ).flat();
}

describe("slices", () => {
  test("rows are one run, columns many", () => {
    expect(sliceDimension(tensor([4, 6]), 0, 1, 2)).toMatchObject({
      shape: [2, 6],
      offset: 106,
      runs: 1,
      length: 12,
    });
    expect(sliceDimension(tensor([4, 6]), 1, 2, 3)).toMatchObject({
      shape: [4, 3],
      offset: 102,
      runs: 4,
      runBytes: 3,
      strideBytes: 6,
    });
  });
  test("the ranks' slices together are the tensor, each byte once", () => {
    const shape = fc.array(fc.constantFrom(2, 4, 8), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(shape, fc.nat(3), fc.constantFrom(1, 2), (shape, dimension, ranks) => {
        const whole = tensor(shape);
        const dim = dimension % shape.length;
        const bytes = Array.from({ length: ranks }, (_, rank) =>
          offsetsOf(sliceForRank(whole, { kind: "split", dim }, { rank, ranks })),
        ).flat();
        expect(bytes.sort((a, b) => a - b)).toEqual(Array.from({ length: whole.length }, (_, i) => 100 + i));
      }),
    );
  });
  test("fewer key heads than ranks are shared by neighbours", () => {
    const rows = Array.from({ length: 4 }, (_, rank) => {
      return sliceForRank(tensor([16, 2]), { kind: "split", dim: 0, units: 2 }, { rank, ranks: 4 }).offset;
    });
    expect(rows).toEqual([100, 100, 116, 116]);
  });
  test("what cannot be divided is refused", () => {
    expect(() =>
      sliceForRank(tensor([9, 2]), { kind: "split", dim: 0, units: 3 }, { rank: 0, ranks: 2 }),
    ).toThrow("3 units");
    expect(() => sliceForRank(tensor([9]), { kind: "split", dim: 1 }, { rank: 0, ranks: 1 })).toThrow(
      "dimension 1",
    );
    expect(() => sliceDimension(tensor([2, 3], "F4"), 1, 0, 1)).toThrow("inside a byte");
    expect(() => sliceDimension(tensor([2, 3]), 1, 2, 2)).toThrow("outside");
  });
  test("a decoder is divided as its matrices are multiplied", () => {
    const heads = { attentionHeads: 32, keyValueHeads: 8 };
    const split = (name: string) => decoderSplit(`model.layers.3.${name}`, heads);
    expect(split("self_attn.q_proj.weight")).toEqual({ kind: "split", dim: 0, units: 32 });
    expect(split("self_attn.k_proj.bias")).toEqual({ kind: "split", dim: 0, units: 8 });
    expect(split("self_attn.o_proj.weight")).toEqual({ kind: "split", dim: 1, units: 32 });
    expect(split("mlp.down_proj.weight")).toEqual({ kind: "split", dim: 1 });
    expect(split("mlp.down_proj.bias")).toEqual({ kind: "replicate" });
    expect(split("block_sparse_moe.experts.5.w2.weight")).toEqual({ kind: "split", dim: 1 });
    expect(split("input_layernorm.weight")).toEqual({ kind: "replicate" });
    expect(decoderSplit("model.embed_tokens.weight", heads)).toEqual({ kind: "split", dim: 0 });
  });
});

describe("experts", () => {
  const whole = (name: string, shape: number[]) => ({ ...tensor(shape), name });
  const ranks = 3;
  const owners = (name: string, experts: number) =>
    Array.from({ length: ranks }, (_, rank) => rank).filter(
      (rank) => expertSlice(whole(name, [4, 2]), experts, { rank, ranks }) !== null,
    );

  test("each has one rank, which gets it whole; ranks have neighbours, as many as the others", () => {
    const found = Array.from({ length: 8 }, (_, i) => owners(`model.layers.0.mlp.experts.${i}.w1.weight`, 8));
    expect(found).toEqual([[0], [0], [0], [1], [1], [1], [2], [2]]);
    const own = expertSlice(whole("experts.7.w2.weight", [4, 2]), 8, { rank: 2, ranks });
    expect(own).toMatchObject({ shape: [4, 2], runs: 1 });
  });
  test("of all in one tensor each rank gets its own, in one piece, and none where there are fewer than ranks", () => {
    const fused = whole("model.layers.0.mlp.experts.gate_up_proj", [8, 2, 3]);
    const slices = [0, 1, 2].map((rank) => expertSlice(fused, 8, { rank, ranks }));
    expect(slices.map((slice) => slice?.shape)).toEqual([
      [3, 2, 3],
      [3, 2, 3],
      [2, 2, 3],
    ]);
    expect(slices.reduce((sum, slice) => sum + (slice?.length ?? 0), 0)).toBe(fused.length);
    expect(slices.every((slice) => slice?.runs === 1)).toBe(true);
    expect(expertSlice(whole("experts.down_proj", [2, 2]), 2, { rank: 2, ranks })).toBeNull();
  });
  test("shared experts and routers are none; what does not fit their number is refused", () => {
    for (const name of [
      "mlp.shared_experts.up_proj.weight",
      "mlp.shared_expert.up_proj.weight",
      "mlp.gate.weight",
    ]) {
      expect(expertSlice(whole(name, [4, 2]), 8, { rank: 0, ranks }), name).toBeUndefined();
    }
    expect(() => expertSlice(whole("experts.8.w1.weight", [4, 2]), 8, { rank: 0, ranks })).toThrow(
      "expert 8 of 8",
    );
    expect(() => expertSlice(whole("experts.up_proj", [4, 2]), 8, { rank: 0, ranks })).toThrow("8 experts");
  });
});
