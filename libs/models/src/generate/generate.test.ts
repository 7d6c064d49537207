import { createHash } from "node:crypto";
import { Tokenizer } from "@huggingface/tokenizers";
import {
  checkShards,
  LENGTH_BYTES,
  parseHeader,
  parseHeaderLength,
  parseIndex,
  type SafetensorsHeader,
} from "@pilotlight/safetensors";
import { describe, expect, test } from "vitest";
import { fromBf16 } from "../bf16.ts";
import type { RepositoryFile } from "../repository-file.ts";
import { type GenerateOptions, generateModel } from "./generate.ts";
import { ARCHITECTURES } from "./shapes.ts";

const tiny = (options: Partial<GenerateOptions> = {}) =>
  generateModel({ architecture: "llama", preset: "tiny", seed: 1, ...options });

async function read(file: RepositoryFile): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of file.open()) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  expect(bytes.byteLength).toBe(file.bytes);
  return bytes;
}

function headerOf(bytes: Buffer): SafetensorsHeader {
  const length = parseHeaderLength(bytes, bytes.byteLength);
  return parseHeader(bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length), bytes.byteLength);
}

const fileNamed = (files: RepositoryFile[], name: string) =>
  files.find((file) => file.name === name) as RepositoryFile;

test.each(ARCHITECTURES)("%s: a small, valid, deterministic repository", async (architecture) => {
  const bytes = await read(fileNamed(tiny({ architecture }), "model.safetensors"));
  expect(bytes.equals(await read(fileNamed(tiny({ architecture }), "model.safetensors")))).toBe(true);
  expect(bytes.equals(await read(fileNamed(tiny({ architecture, seed: 2 }), "model.safetensors")))).toBe(
    false,
  );
  expect(bytes.byteLength).toBeLessThan(400_000);
  expect(new Set(headerOf(bytes).tensors.map(({ dtype }) => dtype))).toEqual(
    new Set([architecture === "bert" ? "F32" : "BF16"]),
  );
});

test("the bytes are the same on every machine", async () => {
  const bytes = await read(fileNamed(tiny(), "model.safetensors"));
  expect(createHash("sha256").update(bytes).digest("hex")).toMatchInlineSnapshot(
    `"d2e647dc540b135b7b80c877fff18c49e174382cd7974fc05fa5a18b76e40bcb"`,
  );
});

test("matrices keep their input's variance, norms are about one", async () => {
  const bytes = await read(fileNamed(tiny(), "model.safetensors"));
  const values = (name: string) => {
    const { offset, length } = headerOf(bytes).tensors.find((tensor) => tensor.name === name)!;
    return Array.from({ length: length / 2 }, (_, i) => fromBf16(bytes.readUInt16LE(offset + 2 * i)));
  };
  const matrix = values("model.layers.0.mlp.up_proj.weight");
  expect(matrix.reduce((sum, x) => sum + x * x, 0) / matrix.length).toBeCloseTo(1 / 48, 3);
  for (const value of values("model.norm.weight")) expect(Math.abs(value - 1)).toBeLessThan(0.2);
});

describe("sharded", () => {
  test("shards agree with their index and hold the same values", async () => {
    const files = tiny({ shardBytesMax: 30_000 });
    const shards = files.filter(({ name }) => name.endsWith(".safetensors"));
    expect(shards.length).toBeGreaterThan(2);
    const headers = new Map<string, SafetensorsHeader>();
    for (const shard of shards) headers.set(shard.name, headerOf(await read(shard)));
    const index = parseIndex((await read(fileNamed(files, "model.safetensors.index.json"))).toString());
    expect(() => checkShards(index, headers)).not.toThrow();
    const whole = await read(fileNamed(tiny(), "model.safetensors"));
    const [holder] = [...headers].find(([, { tensors }]) =>
      tensors.some(({ name }) => name === "model.norm.weight"),
    )!;
    const last = await read(fileNamed(files, holder));
    const norm = (bytes: Buffer) => {
      const { offset, length } = headerOf(bytes).tensors.find(({ name }) => name === "model.norm.weight")!;
      return bytes.subarray(offset, offset + length).toString("hex");
    };
    expect(norm(last)).toBe(norm(whole));
  });
});

test("the tokenizer gives one token a byte, and sentences their ends", async () => {
  const encode = async (architecture: "llama" | "bert") => {
    const files = tiny({ architecture });
    const json = async (name: string) => JSON.parse((await read(fileNamed(files, name))).toString());
    return new Tokenizer(await json("tokenizer.json"), await json("tokenizer_config.json")).encode(
      "Hé <|im_end|>",
    ).ids;
  };
  expect(await encode("llama")).toEqual([72, 195, 169, 32, 258]);
  const bert = await encode("bert");
  expect([bert[0], bert.at(-1)]).toEqual([256, 257]);
});

test("shapes that cannot be built are refused with the field", () => {
  expect(() => tiny({ shape: { keyValueHeads: 2 } })).toThrow("keyValueHeads");
  expect(() => tiny({ shape: { vocabulary: 100 } })).toThrow("vocabulary");
  expect(() => tiny({ shape: { layers: 0 } })).toThrow("layers");
});

test("large presets are planned without being made", () => {
  const bytes = (
    preset: GenerateOptions["preset"],
    architecture: GenerateOptions["architecture"] = "llama",
  ) => generateModel({ architecture, preset, seed: 1 }).reduce((sum, file) => sum + file.bytes, 0) / 1e9;
  expect(bytes("7b")).toBeCloseTo(13.5, 1);
  expect(bytes("70b")).toBeCloseTo(138, 0);
  expect(bytes("moe", "mixtral")).toBeCloseTo(93.4, 1);
});
