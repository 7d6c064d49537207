import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { metadataImage, readErofs } from "@pilotlight/image-format";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { hostPlatform, type LayerSource, parseImageConfig, writeOciLayout } from "@pilotlight/oci";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  chainIdsOf,
  collectGarbage,
  convertImage,
  convertPrefix,
  imagesOfChain,
  readImageFile,
} from "./index.ts";

const signal = new AbortController().signal;
const BASE: LayerSource[] = [{ to: "/base", content: "base" }];
const IMAGES: Record<string, LayerSource[][]> = {
  one: [BASE, [{ to: "/base", content: "changed" }], [{ to: "/top", content: "one" }]],
  two: [BASE, [{ to: "/top", content: "two" }]],
};

let folder: string;
let bucket: ObjectStore;
let runs = 0;
const digests: Record<string, string> = {};
const source = (image: string) => `oci://${folder}/${image}:v1`;
const convert = (image: string) => convertImage({ source: source(image), bucket });
const prefix = (image: string, layers: number, reference = "") =>
  convertPrefix({ bucket, manifestDigest: digests[image] ?? "", layers, reference, registry: {}, signal });
const filesOf = async (manifestDigest: string) => {
  const entries = readErofs(metadataImage(await readImageFile(bucket, manifestDigest)));
  return [...entries].filter(({ kind }) => kind === "file").map(({ path, size }) => `${path} ${size}`);
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "prefix-"));
  for (const [image, layers] of Object.entries(IMAGES)) {
    const directory = join(folder, image);
    const written = await writeOciLayout({ directory, tag: "v1", platform: hostPlatform(), layers, run: {} });
    digests[image] = written.manifestDigest;
  }
});
beforeEach(() => {
  bucket = openStore(`file://${folder}/bucket-${++runs}`);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("the root after some layers of a converted image", () => {
  test("has what these layers have, and is one image for all that begin so", async () => {
    await convert("one");
    await convert("two");
    expect(await filesOf(await prefix("one", 1))).toEqual(["base 4"]);
    expect(await filesOf(await prefix("one", 2))).toEqual(["base 7"]);
    expect(await prefix("two", 1)).toBe(await prefix("one", 1));
  });
  test("is read from its source where the bucket has lost the layers", async () => {
    await convert("one");
    for await (const { key } of bucket.list({ prefix: "layers/" })) await bucket.delete(key);
    await expect(prefix("one", 1)).rejects.toMatchObject({ code: "notFound" });
    expect(await filesOf(await prefix("one", 1, source("one")))).toEqual(["base 4"]);
  });
  test("an image that is gone has none", async () => {
    await expect(prefix("one", 1)).rejects.toMatchObject({ code: "notFound" });
  });
});

describe("images by the chain IDs of their layers", () => {
  const chainIds = async (image: string) => {
    const { manifest } = await readImageFile(bucket, digests[image] ?? "");
    return chainIdsOf(parseImageConfig(Buffer.from(manifest.ociConfig)));
  };
  test("every layer leads to every image that has it", async () => {
    await convert("one");
    await convert("two");
    const [shared = "", ...own] = await chainIds("one");
    expect((await imagesOfChain(bucket, shared, signal)).sort()).toEqual(Object.values(digests).sort());
    for (const chainId of own) expect(await imagesOfChain(bucket, chainId, signal)).toEqual([digests.one]);
  });
  test("an image that was converted before there were entries gets them when it is asked for", async () => {
    await convert("one");
    for await (const { key } of bucket.list({ prefix: "chains/" })) await bucket.delete(key);
    expect((await convert("one")).alreadyConverted).toBe(true);
    const [shared = ""] = await chainIds("one");
    expect(await imagesOfChain(bucket, shared, signal)).toEqual([digests.one]);
  });
  test("entries go with their image", async () => {
    await convert("one");
    await convert("two");
    const [shared = ""] = await chainIds("one");
    const inUse = new Set([digests.two ?? ""]);
    await collectGarbage({ bucket, inUse, graceMs: 1_000, now: Date.now() + 10_000 });
    expect(await imagesOfChain(bucket, shared, signal)).toEqual([digests.two]);
  });
});
