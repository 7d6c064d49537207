import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdtemp, open, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Tokenizer } from "@huggingface/tokenizers";
import { LENGTH_BYTES, parseHeader, parseHeaderLength } from "@pilotlight/safetensors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RepositoryFile } from "../repository-file.ts";
import { blockFormat, expandBlocks } from "./blocks.ts";
import { convertGguf } from "./convert.ts";
import { tensorName } from "./decoder.ts";
import { separateHalves } from "./tensors.ts";

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const readJson = (name: string) => JSON.parse(readFileSync(fixture(name), "utf8"));

type BlockVector = { format: string; type: number; blocks: string; values: string };

test.each(readJson("block-vectors.json") as BlockVector[])(
  "$format expands as the reference does",
  (vector) => {
    const format = blockFormat(vector.type);
    expect(format.name).toBe(vector.format);
    const blocks = new Uint8Array(Buffer.from(vector.blocks, "base64"));
    const expected = new Float32Array(new Uint8Array(Buffer.from(vector.values, "base64")).buffer);
    const values = new Float32Array((blocks.byteLength / format.bytes) * format.values);
    expandBlocks(format, blocks, values);
    expect(values).toEqual(expected);
  },
);

test("heads are put back into halves", () => {
  // Two heads of four rows: stored 0,2,1,3 of each.
  const stored = Float32Array.from([0, 2, 1, 3, 10, 12, 11, 13]);
  expect([...separateHalves(stored, 1, 4)]).toEqual([0, 1, 2, 3, 10, 11, 12, 13]);
});

describe("a converted GGUF file", () => {
  let files: Map<string, Buffer>;
  let licence: string | undefined;
  beforeAll(async () => {
    const converted = await convertGguf(fixture("tiny.gguf"));
    licence = converted.licence;
    files = new Map(
      await Promise.all(converted.files.map(async (file) => [file.name, await read(file)] as const)),
    );
  });
  const json = (name: string) => JSON.parse(files.get(name)?.toString() ?? "");

  test("has the tensors of the reference, bit for bit, in building order", () => {
    const bytes = files.get("model.safetensors") ?? Buffer.alloc(0);
    const length = parseHeaderLength(bytes, bytes.byteLength);
    const header = parseHeader(bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length), bytes.byteLength);
    const digests = header.tensors.map(({ name, offset, length }) => [
      name,
      createHash("sha256")
        .update(bytes.subarray(offset, offset + length))
        .digest("hex"),
    ]);
    expect(Object.fromEntries(digests)).toEqual(readJson("tiny-tensors.json"));
    const names = header.tensors.map(({ name }) => name);
    expect([names[0], names.at(-1)]).toEqual(["model.embed_tokens.weight", "model.norm.weight"]);
    expect(names.findIndex((name) => name.includes("layers.1"))).toBe(10);
  });
  test("has a configuration for any version of transformers", () => {
    expect(json("config.json")).toMatchObject({
      architectures: ["LlamaForCausalLM"],
      hidden_size: 64,
      num_key_value_heads: 2,
      rms_norm_eps: 0.00001,
      rope_theta: 10000,
      tie_word_embeddings: true,
      vocab_size: 262,
    });
    expect(json("tokenizer_config.json")).toMatchObject({
      bos_token: "<|end|>",
      chat_template: "{{ messages[0]['content'] }}",
      model_max_length: 128,
    });
    expect(licence).toBe("apache-2.0");
  });
  test("has a tokenizer that cuts digits apart and keeps special tokens whole", () => {
    const tokenizer = new Tokenizer(json("tokenizer.json"), json("tokenizer_config.json"));
    const { tokens } = tokenizer.encode("the the12<|user|><custom>é");
    expect(tokens).toEqual(["the", "Ġthe", "1", "2", "<|user|>", "<custom>", "Ã", "©"]);
  });
});

describe("damaged or foreign files", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pilotlight-gguf-"));
  });
  afterAll(() => rm(folder, { recursive: true }));
  const damaged = async (change: (path: string) => Promise<void>) => {
    const path = join(folder, `${Math.random()}.gguf`);
    await writeFile(path, readFileSync(fixture("tiny.gguf")));
    await change(path);
    return convertGguf(path);
  };

  test("a truncated file is corrupt", async () => {
    await expect(damaged((path) => truncate(path, 60_000))).rejects.toMatchObject({ code: "corrupt" });
    await expect(damaged((path) => truncate(path, 100))).rejects.toMatchObject({ code: "corrupt" });
    await expect(damaged((path) => truncate(path, 0))).rejects.toMatchObject({ code: "corrupt" });
  });
  test("another kind of file is corrupt", async () => {
    const overwrite = async (path: string) => {
      const file = await open(path, "r+");
      await file.write("ELF!");
      await file.close();
    };
    await expect(damaged(overwrite)).rejects.toMatchObject({ code: "corrupt" });
  });
  test("an absent file is notFound", async () => {
    await expect(convertGguf("/nowhere/model.gguf")).rejects.toMatchObject({ code: "notFound" });
  });
  test("a tensor or a format without counterpart is named", () => {
    expect(() => tensorName("blk.0.ffn_gate_exps.weight")).toThrow("ffn_gate_exps");
    expect(() => blockFormat(999)).toThrow(expect.objectContaining({ code: "unsupported" }));
  });
});

async function read(file: RepositoryFile): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of file.open()) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  expect(bytes.byteLength).toBe(file.bytes);
  return bytes;
}
