import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { hostPlatform, type LayerSource, writeOciLayout } from "@pilotlight/oci";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { type ConvertedImage, collectGarbage, convertImage, verifyStored } from "./index.ts";

const scratch = mkdtempSync(join(tmpdir(), "garbage-"));
const HOUR_MS = 3_600_000;
let path = "";
let bucket: ObjectStore;
let number = 0;
beforeEach(async () => {
  path = join(scratch, `bucket-${++number}`);
  mkdirSync(path);
  bucket = await openStore(`file://${path}`);
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const content = (seed: string) =>
  Buffer.concat(
    Array.from({ length: 10_000 }, (_, i) => createHash("sha256").update(`${seed}${i}`).digest()),
  );

async function convert(...seeds: string[]): Promise<ConvertedImage> {
  const layers = seeds.map((seed): LayerSource[] => [{ to: `/${seed}`, content: content(seed) }]);
  const { reference } = await writeOciLayout({
    directory: join(scratch, `layout-${++number}`),
    tag: "t",
    platform: hostPlatform(),
    layers,
    run: {},
  });
  return convertImage({ source: reference, bucket, limits: { chunkBytes: 64 << 10 } });
}

/** Makes everything in the bucket older. */
function age(ms: number): void {
  for (const entry of readdirSync(path, { recursive: true, withFileTypes: true })) {
    const at = (Date.now() - ms) / 1000;
    if (entry.isFile()) utimesSync(join(entry.parentPath, entry.name), at, at);
  }
}

const collect = (inUse: ConvertedImage[], laterMs = 0) =>
  collectGarbage({
    bucket,
    inUse: new Set(inUse.map(({ manifestDigest }) => manifestDigest)),
    graceMs: HOUR_MS,
    now: Date.now() + laterMs,
  });

const problems = async ({ manifestDigest }: ConvertedImage) =>
  (await verifyStored({ bucket, manifestDigest })).problems;

describe("garbage collection", () => {
  test("keeps what is in use or young, and removes the rest in two rounds", async () => {
    const kept = await convert("base", "kept");
    const gone = await convert("base", "gone");
    expect(await collect([kept])).toMatchObject({ images: 0, layers: 0, packs: 0 });
    age(2 * HOUR_MS);
    expect(await collect([kept])).toMatchObject({ images: 1, layers: 1, packs: 0, waitingPacks: 1 });
    expect(await problems(kept)).toEqual([]);
    await expect(verifyStored({ bucket, manifestDigest: gone.manifestDigest })).rejects.toMatchObject({
      code: "notFound",
    });
    expect(await collect([kept], 2 * HOUR_MS)).toMatchObject({ images: 0, packs: 1, waitingPacks: 0 });
    expect(await problems(kept)).toEqual([]);
  });

  test("spares a pack that a conversion picked up after it was a candidate", async () => {
    await convert("shared", "old");
    age(2 * HOUR_MS);
    expect((await collect([])).waitingPacks).toBe(2);
    // A converter that read the layer's record before it went writes an image that refers to its pack.
    const again = await convert("shared", "new");
    age(2 * HOUR_MS);
    await collect([again], 2 * HOUR_MS);
    expect(await problems(again)).toEqual([]);
  });

  test("only says what it would do, when asked so", async () => {
    const image = await convert("a");
    age(2 * HOUR_MS);
    const report = await collectGarbage({
      bucket,
      inUse: new Set(),
      graceMs: HOUR_MS,
      now: Date.now(),
      dryRun: true,
    });
    expect(report).toMatchObject({ images: 1, layers: 1 });
    expect(await problems(image)).toEqual([]);
  });
});

describe("verification", () => {
  test("finds a missing and a shortened pack", async () => {
    const image = await convert("a", "b", "c");
    expect(await verifyStored({ bucket, manifestDigest: image.manifestDigest })).toMatchObject({
      imageId: image.imageId,
      problems: [],
    });
    const packs = readdirSync(join(path, "packs"));
    rmSync(join(path, "packs", packs[0]!));
    truncateSync(join(path, "packs", packs[1]!), 1000);
    expect(await problems(image)).toHaveLength(2);
  });
});
