// Models added with transformations, into folders that stand for buckets, read back by the platform's own readers.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addModel } from "@pilotlight/models";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { listObjects, readRepository } from "@pilotlight/weights";
import { rankSlice } from "@pilotlight/weights/rank";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { addTransformed, parseScheme, QUALITY_FILE, type Transformation } from "./index.ts";

const MODEL =
  "generated://llama/tiny?hidden=64&intermediate=128&heads=4&keyValueHeads=2&headSize=16&layers=2";
const PLAIN: Transformation = { scheme: null, shardBytesMax: 5e9, ranks: 1, judge: true };
const signal = new AbortController().signal;

let folder: string;
const stores: ObjectStore[] = [];
const place = (name: string) => {
  const store = openStore(`file://${folder}/${name}`);
  stores.push(store);
  return store;
};
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-onboarding-"));
});
afterEach(async () => {
  for (const store of stores.splice(0)) await store.close();
  await rm(folder, { recursive: true });
});

const read = async (store: ObjectStore) => readRepository(store, await listObjects(store, signal), signal);
const tensorsOf = async (store: ObjectStore) => {
  const { weights } = await read(store);
  const found = new Map<string, Buffer>();
  for (const { key, header } of weights) {
    for (const { name, offset, length } of header.tensors) {
      const { bytes } = await store.get(key, { range: { offset, length } });
      found.set(name, Buffer.from(bytes));
    }
  }
  return found;
};
const json = async (name: string) => JSON.parse(await readFile(join(folder, name), "utf8"));

describe("quantising", () => {
  const int4: Transformation = { ...PLAIN, scheme: parseScheme("int4", 32), shardBytesMax: 40_000 };

  test("gives an artefact of its own: config for engines, record, digests of what it was made from", async () => {
    await addModel({ from: MODEL, to: place("plain") });
    const { record, outcome } = await addTransformed({
      from: `${folder}/plain`,
      to: place("int4"),
      name: "tiny-int4",
      tool: "test 1",
      transformation: int4,
    });
    expect(outcome).toBe("added");
    const plain = await json("plain/pilotlight.json");
    expect(record).toMatchObject({
      name: "tiny-int4",
      tool: "test 1",
      recipe: "transform-2 int4-g32 shards-40000",
      licence: "CC0-1.0",
      source: { files: { "model.safetensors": plain.files["model.safetensors"].sha256 } },
      quantisation: { scheme: "int4", groupSize: 32, format: "pack-quantized" },
    });
    const config = await json("int4/config.json");
    expect(config.quantization_config).toMatchObject({
      quant_method: "compressed-tensors",
      format: "pack-quantized",
      ignore: ["model.embed_tokens", "lm_head"],
      config_groups: { group_0: { weights: { num_bits: 4, strategy: "group", group_size: 32 } } },
    });
    const quality = await json(`int4/${QUALITY_FILE}`);
    expect(quality.tensors).toHaveLength(14);
    expect(quality.overall.relativeRms).toBeGreaterThan(0.02);
    expect(quality.overall.relativeRms).toBeLessThan(0.12);
    expect(record.quality?.relativeRms).toBe(quality.overall.relativeRms);
    const { weights, record: own } = await read(place("int4"));
    expect(weights.length).toBeGreaterThan(2);
    expect(own).toEqual(record);
  });

  test("the same source gives the same bytes, however it was cut; added again it is left alone", async () => {
    await addModel({ from: MODEL, to: place("one") });
    await addModel({ from: `${MODEL}&shardMB=1`, to: place("two") });
    const digests = [];
    for (const [from, to] of [
      ["one", "a"],
      ["one", "b"],
      ["two", "c"],
    ] as const) {
      const { record } = await addTransformed({
        from: join(folder, from),
        to: place(to),
        transformation: int4,
      });
      const files = Object.entries(record.files).filter(([name]) => /safetensors|quality/.test(name));
      digests.push(files.map(([name, { sha256 }]) => `${name} ${sha256}`));
    }
    expect(digests[1]).toEqual(digests[0]);
    expect(digests[2]).toEqual(digests[0]);
    const again = await addTransformed({ from: join(folder, "one"), to: place("a"), transformation: int4 });
    expect(again.outcome).toBe("alreadyThere");
  });

  test("what has to be converted first is staged, and named as what it was made from", async () => {
    const { record } = await addTransformed({
      from: MODEL,
      to: place("fp8"),
      cacheDirectory: join(folder, "cache"),
      transformation: { ...PLAIN, scheme: parseScheme("fp8", undefined) },
    });
    expect(record.source.uri).toBe(MODEL);
    expect(record.notice).toContain("FP8");
    const names = [...(await tensorsOf(place("fp8"))).keys()];
    expect(names).toContain("model.layers.0.mlp.up_proj.weight_scale");
    expect(names).not.toContain("model.layers.0.mlp.up_proj.weight_packed");
  });

  test("a quantised model is not quantised again, nor a damaged source trusted, nor anything done in place", async () => {
    await addModel({ from: MODEL, to: place("plain") });
    const from = `${folder}/plain`;
    await expect(addTransformed({ from, to: place("plain"), transformation: int4 })).rejects.toThrow(
      "in place",
    );
    await addTransformed({ from, to: place("int4"), transformation: int4 });
    await expect(
      addTransformed({ from: `${folder}/int4`, to: place("twice"), transformation: int4 }),
    ).rejects.toThrow("quantised already");
    const file = join(folder, "plain/model.safetensors");
    const bytes = await readFile(file);
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
    await writeFile(file, bytes);
    const damaged = addTransformed({ from, to: place("damaged"), transformation: int4 });
    await expect(damaged).rejects.toMatchObject({ code: "corrupt" });
    expect(await place("damaged").head("pilotlight.json")).toBeUndefined();
  });
});

describe("cutting for ranks", () => {
  test("each folder has what the rank would see of the whole, and is a repository of its own", async () => {
    await addModel({ from: MODEL, to: place("plain") });
    const ranks = 2;
    const { record } = await addTransformed({
      from: `${folder}/plain`,
      to: place("cut"),
      transformation: { ...PLAIN, ranks },
    });
    expect(record.ranks).toBe(ranks);
    const { files, weights } = await read(place("plain"));
    const whole = await tensorsOf(place("plain"));
    for (let rank = 0; rank < ranks; rank++) {
      const own = await tensorsOf(place(`cut/rank-${rank}-of-${ranks}`));
      expect([...own.keys()].sort()).toEqual([...whole.keys()].sort());
      const sliceOf = rankSlice(files, { rank, ranks });
      for (const { name, dtype, shape, length } of weights.flatMap(({ header }) => header.tensors)) {
        const slice = sliceOf({ name, dtype, shape, offset: 0, length });
        const pieces = Array.from({ length: slice.runs }, (_, i) => {
          const begin = slice.offset + i * slice.strideBytes;
          return (whole.get(name) as Buffer).subarray(begin, begin + slice.runBytes);
        });
        expect(own.get(name)?.equals(Buffer.concat(pieces)), name).toBe(true);
      }
    }
  });
  test("quantised slices are sound: each is close to the slice that it stands for", async () => {
    const { record } = await addTransformed({
      from: MODEL,
      to: place("cut"),
      cacheDirectory: join(folder, "cache"),
      transformation: { ...PLAIN, scheme: parseScheme("int8", undefined), ranks: 2 },
    });
    expect(record.quality?.relativeRms).toBeLessThan(0.01);
    const rank = await json("cut/rank-1-of-2/pilotlight.json");
    expect(rank.quantisation.scheme).toBe("int8");
  });
  test("a number of ranks that cannot be is refused", async () => {
    const adding = addTransformed({ from: MODEL, to: place("x"), transformation: { ...PLAIN, ranks: 0 } });
    await expect(adding).rejects.toMatchObject({ code: "invalidArgument", field: "ranks" });
  });
});
