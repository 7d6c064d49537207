import { describe, expect, test } from "vitest";
import type { SafetensorsHeader } from "./header.ts";
import { checkShards, findWeightFiles, formatIndex, parseIndex, shardName } from "./repository.ts";

const header = (...names: string[]): SafetensorsHeader => ({
  metadata: new Map(),
  tensors: names.map((name) => ({ name, dtype: "U8", shape: [1], offset: 8, length: 1 })),
  dataOffset: 8,
  fileBytes: 8 + names.length,
});

describe("finding a repository's weights", () => {
  test.each([
    [["config.json", "model.safetensors"], { kind: "single", file: "model.safetensors" }],
    [
      ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model.safetensors"],
      { kind: "sharded", index: "model.safetensors.index.json" },
    ],
    [["weights.safetensors", "onnx/model.safetensors"], { kind: "single", file: "weights.safetensors" }],
  ])("%j", (names, expected) => {
    expect(findWeightFiles(names)).toEqual(expected);
  });
  test("no weights, or an unclear choice, is an error with a remedy", () => {
    expect(() => findWeightFiles(["pytorch_model.bin"])).toThrow(
      expect.objectContaining({ code: "notFound" }),
    );
    expect(() => findWeightFiles(["a.safetensors", "b.safetensors"])).toThrow("several safetensors files");
  });
});

describe("shard index", () => {
  const text = formatIndex(
    new Map([
      [shardName(1, 2), [{ name: "a", length: 3 }]],
      [
        shardName(2, 2),
        [
          { name: "b", length: 4 },
          { name: "__proto__", length: 1 },
        ],
      ],
    ]),
  );
  test("is read back as it was written", () => {
    const index = parseIndex(text);
    expect(index.shards).toEqual(["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    expect([...index.files]).toEqual([
      ["a", "model-00001-of-00002.safetensors"],
      ["b", "model-00002-of-00002.safetensors"],
      ["__proto__", "model-00002-of-00002.safetensors"],
    ]);
    expect(JSON.parse(text)).toMatchObject({ metadata: { total_size: 8 } });
  });
  test.each([
    ["not JSON", "{"],
    ["no map", "{}"],
    ["a list", '{"weight_map":[]}'],
    ["a path", '{"weight_map":{"a":"../x.safetensors"}}'],
    ["another kind of file", '{"weight_map":{"a":"pytorch_model.bin"}}'],
    ["a number", '{"weight_map":{"a":1}}'],
  ])("%s is refused", (_name, wrong) => {
    expect(() => parseIndex(wrong)).toThrow(expect.objectContaining({ code: "corrupt" }));
  });
  test("must agree with the shards, both ways", () => {
    const index = parseIndex('{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}');
    const check = (one: string[], two: string[]) =>
      checkShards(
        index,
        new Map([
          ["1.safetensors", header(...one)],
          ["2.safetensors", header(...two)],
        ]),
      );
    expect(() => check(["a"], ["b"])).not.toThrow();
    expect(() => check(["a"], [])).toThrow("it does not");
    expect(() => check(["a", "c"], ["b"])).toThrow("does not name it");
    expect(() => check(["a", "b"], ["b"])).toThrow("says 2.safetensors");
  });
});
