import { describe, expect, test } from "vitest";
import type { PlannedTensor } from "../planned-tensor.ts";
import { E4M3_VALUES, roundHalfEven, toE4m3 } from "./float8.ts";
import { quantiseTensors } from "./quantise-tensors.ts";
import { rowBlocks } from "./row-blocks.ts";
import { dequantise, quantiseRows } from "./rows.ts";
import { parseScheme, type Scheme } from "./scheme.ts";

/** A seeded generator of numbers around zero (mulberry32). */
function noise(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) / 2 ** 32 - 0.5) * 0.2;
  };
}
const matrix = (rows: number, columns: number, seed: number) => {
  const next = noise(seed);
  return Float32Array.from({ length: rows * columns }, next);
};
const noError = () => ({ squaredError: 0, squaredValues: 0, maxAbsError: 0 });

describe("FP8", () => {
  test("every code comes back from its value, and what lies between goes to the nearer, ties to the even code", () => {
    for (let code = 0; code < 0x7e; code++) {
      const [low, high] = [E4M3_VALUES[code] as number, E4M3_VALUES[code + 1] as number];
      expect(toE4m3(low)).toBe(code);
      expect(toE4m3(-low)).toBe(low === 0 ? 0 : code | 0x80);
      const middle = (low + high) / 2;
      expect(toE4m3(middle)).toBe(code % 2 === 0 ? code : code + 1);
      expect(toE4m3(middle - (high - low) / 64)).toBe(code);
      expect(toE4m3(middle + (high - low) / 64)).toBe(code + 1);
    }
  });
  test("what is too large becomes the largest, never infinity or no number", () => {
    for (const value of [448, 449, 464, 1e9]) expect([toE4m3(value), toE4m3(-value)]).toEqual([0x7e, 0xfe]);
  });
  test("ties go to even", () => {
    expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999].map(roundHalfEven)).toEqual([0, 2, 2, 0, -2, 2]);
  });
});

describe.each(["fp8", "int8", "int4"] as const)("%s", (name) => {
  const scheme: Scheme = parseScheme(name, name === "int4" ? 32 : undefined);
  const columns = 128;

  test.each([1, 2, 3])(
    "codes and scales give the weights back, as close as the scheme goes (seed %i)",
    (seed) => {
      const values = matrix(8, columns, seed);
      const error = noError();
      const { codes, scales } = quantiseRows(values, columns, scheme, "BF16", error);
      const back = dequantise(codes, scales, scheme.groupSize ?? columns, scheme);
      let squared = 0;
      back.forEach((value, i) => {
        squared += (value - (values[i] as number)) ** 2;
      });
      expect(squared).toBeCloseTo(error.squaredError, 8);
      const relative = Math.sqrt(error.squaredError / error.squaredValues);
      expect(relative).toBeLessThan({ fp8: 0.03, int8: 0.006, int4: 0.09 }[name]);
      expect(relative).toBeGreaterThan(0);
    },
  );
  test("a row of zeros stays zero", () => {
    const { codes, scales } = quantiseRows(new Float32Array(columns), columns, scheme, "BF16", noError());
    expect(new Set(dequantise(codes, scales, scheme.groupSize ?? columns, scheme).map(Math.abs))).toEqual(
      new Set([0]),
    );
  });
  test("rows are judged alone: more of them change nothing", () => {
    const values = matrix(4, columns, 9);
    const all = quantiseRows(values, columns, scheme, "F32", noError());
    const one = quantiseRows(values.subarray(columns, 2 * columns), columns, scheme, "F32", noError());
    const bytes = all.codes.length / 4;
    expect(all.codes.subarray(bytes, 2 * bytes)).toEqual(one.codes);
  });
});

test("int4: the earlier weight lies in the low half, eight above its value", () => {
  const values = new Float32Array(32);
  values[0] = 7;
  values[1] = -7;
  const { codes, scales } = quantiseRows(values, 32, parseScheme("int4", 32), "F32", noError());
  expect(scales).toEqual(new Float32Array([1]));
  expect(codes[0]).toBe((1 << 4) | 15);
});

describe("int4 scales", () => {
  const int4 = parseScheme("int4", 32);
  const cost = (values: Float32Array, type: "BF16" | "F32" = "BF16") => {
    const error = noError();
    quantiseRows(values, values.length, int4, type, error);
    return error.squaredError;
  };
  /** What rounding to the nearest with the largest weight kept would cost. */
  const costOfNearest = (values: Float32Array) => {
    let sum = 0;
    for (let at = 0; at < values.length; at += 32) {
      const group = values.subarray(at, at + 32);
      const scale = Math.max(...group.map(Math.abs)) / 7;
      for (const value of group) sum += (value - roundHalfEven(value / scale) * scale) ** 2;
    }
    return sum;
  };

  test.each([1, -1])("the code that only one side has goes to the side that needs it (%i)", (side) => {
    const values = Float32Array.from({ length: 32 }, (_, i) => side * ((i % 16) - 8));
    const { codes, scales } = quantiseRows(values, 32, int4, "F32", noError());
    expect(scales).toEqual(Float32Array.of(side));
    expect(dequantise(codes, scales, 32, int4)).toEqual(values);
  });
  test.each([4, 5, 6])(
    "weights of a bell curve lose a quarter less than by rounding alone (seed %i)",
    (seed) => {
      const next = noise(seed);
      const values = Float32Array.from({ length: 64 * 32 }, () =>
        Array.from({ length: 12 }, next).reduce((a, b) => a + b),
      );
      expect(cost(values)).toBeLessThan(0.75 * costOfNearest(values));
    },
  );
  test("one weight far out does not coarsen all others more than it must", () => {
    const values = matrix(1, 32, 3);
    values[7] = 0.25;
    expect(cost(values)).toBeLessThan(costOfNearest(values));
  });
});

describe("blocks of rows", () => {
  async function* pieces(bytes: Uint8Array, size: number) {
    for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
  }
  test("are the same however the bytes come", async () => {
    const bytes = new Uint8Array(matrix(6, 10, 4).buffer);
    const read = async (size: number) => {
      const blocks: number[] = [];
      for await (const block of rowBlocks(pieces(bytes, size), { name: "x", dtype: "F32", columns: 10 })) {
        blocks.push(...block);
      }
      return blocks;
    };
    expect(await read(7)).toEqual(await read(1000));
    expect(await read(7)).toEqual([...matrix(6, 10, 4)]);
  });
  test("refuse what is not finite, by the tensor's name", async () => {
    const bytes = new Uint8Array(Float32Array.of(1, Number.NaN).buffer);
    const read = rowBlocks(pieces(bytes, 8), { name: "bad.weight", dtype: "F32", columns: 2 });
    await expect(read.next()).rejects.toMatchObject({
      code: "corrupt",
      message: expect.stringContaining("bad.weight"),
    });
  });
});

describe("tensors", () => {
  const tensor = (name: string, shape: number[]): PlannedTensor => {
    return { name, dtype: "BF16", shape, open: () => (async function* () {})() };
  };
  const decoder = [
    tensor("model.embed_tokens.weight", [64, 128]),
    tensor("model.layers.0.self_attn.q_proj.weight", [128, 128]),
    tensor("model.layers.0.self_attn.q_proj.bias", [128]),
    tensor("model.layers.0.mlp.experts.3.w2.weight", [128, 256]),
    tensor("model.layers.0.mlp.gate.weight", [8, 128]),
    tensor("lm_head.weight", [64, 128]),
  ];
  test("projections of the layers are quantised; embeddings, head and routers are named as left alone", () => {
    const { units, ignored } = quantiseTensors(decoder, parseScheme("int4", 64));
    expect(units.flat().map(({ name, dtype, shape }) => `${name} ${dtype} ${shape}`)).toEqual([
      "model.embed_tokens.weight BF16 64,128",
      "model.layers.0.self_attn.q_proj.weight_shape I64 2",
      "model.layers.0.self_attn.q_proj.weight_packed I32 128,16",
      "model.layers.0.self_attn.q_proj.weight_scale BF16 128,2",
      "model.layers.0.self_attn.q_proj.bias BF16 128",
      "model.layers.0.mlp.experts.3.w2.weight_shape I64 2",
      "model.layers.0.mlp.experts.3.w2.weight_packed I32 128,32",
      "model.layers.0.mlp.experts.3.w2.weight_scale BF16 128,4",
      "model.layers.0.mlp.gate.weight BF16 8,128",
      "lm_head.weight BF16 64,128",
    ]);
    expect(ignored).toEqual(["model.embed_tokens", "model.layers.0.mlp.gate", "lm_head"]);
  });
  test("the head is left alone where the embeddings stand in for it", () => {
    const tied = decoder.filter(({ name }) => name !== "lm_head.weight");
    expect(quantiseTensors(tied, parseScheme("fp8", undefined)).ignored).toContain("lm_head");
  });
  test("a group that does not fit, a model without projections and an unknown scheme are refused", () => {
    const odd = [tensor("model.layers.0.self_attn.q_proj.weight", [8, 96])];
    expect(() => quantiseTensors(odd, parseScheme("int4", 64))).toThrow("groups of 64");
    const encoder = [tensor("encoder.layer.0.attention.self.query.weight", [8, 8])];
    expect(() => quantiseTensors(encoder, parseScheme("fp8", undefined))).toThrow("no projections");
    expect(() => parseScheme("int3", undefined)).toThrow("int3");
    expect(() => parseScheme("int4", 100)).toThrow("groups of 100");
    expect(() => parseScheme("fp8", 32)).toThrow("no groups");
  });
});
