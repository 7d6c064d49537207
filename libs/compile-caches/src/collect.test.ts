import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, DeploymentSpecSchema } from "@pilotlight/contracts";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { S3_START_TIMEOUT_MS, type S3TestServer, startS3Server } from "@pilotlight/object-store/testing";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  archiveKey,
  collectCompileCaches,
  compileCacheKey,
  formatRecord,
  recordKey,
  removeSpareArchives,
  specificationOf,
} from "./index.ts";

const HOUR_MS = 3_600_000;
const IMAGE = "sha256:engine-1";
const MACHINE = { acceleratorKind: "", cpu: "a processor" };
let folder: string;
let s3: S3TestServer;
let number = 0;
beforeAll(async () => {
  [folder, s3] = await Promise.all([mkdtemp(join(tmpdir(), "compile-caches-")), startS3Server()]);
}, S3_START_TIMEOUT_MS);
afterAll(async () => {
  await s3.stop();
  await rm(folder, { recursive: true });
});

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
const specification = (application: string, environment: Record<string, string> = {}) =>
  specificationOf(
    application,
    create(DeploymentSpecSchema, {
      name: "main",
      image: "engine:latest",
      environment,
      compileCache: { variables: ["TORCHINDUCTOR_CACHE_DIR"], sizeMaxMib: 1, key: "" },
    }),
  ) as string;

describe.each(["a folder", "S3"])("compile caches in %s", (kind) => {
  let bucket: ObjectStore;
  beforeEach(() => {
    const name = `bucket-${++number}`;
    const credentials = async () => s3.credentials;
    bucket = kind === "S3" ? openStore(s3.uri(name), { credentials }) : openStore(`file://${folder}/${name}`);
  });

  /** Saves as a node agent does. */
  async function save(application: string, content: string, image = IMAGE): Promise<string> {
    const owner = { application, deployment: "main", specification: specification(application) };
    const key = compileCacheKey(owner.specification, image, MACHINE);
    const archive = sha256(content);
    await bucket.put(archiveKey(key, archive), content);
    const record = { ...owner, manifestDigest: image, archive, bytes: content.length, files: 1 };
    await bucket.put(recordKey(key), formatRecord(record));
    return key;
  }
  const collect = (applications: string[], laterMs: number, images = [IMAGE]) =>
    collectCompileCaches({
      bucket,
      inUse: {
        specifications: new Set(applications.map((name) => specification(name))),
        manifestDigests: new Set(images),
      },
      graceMs: HOUR_MS,
      now: Date.now() + laterMs,
    });
  const objects = async () =>
    (await Array.fromAsync(bucket.list({ prefix: "compile-caches/" }))).map(({ key }) => key).sort();
  const objectsOf = (key: string, content: string) =>
    [recordKey(key), archiveKey(key, sha256(content))].sort();

  test("what no version uses goes a grace period after that was seen first; the rest stays", async () => {
    const kept = await save("kept", "one");
    await save("gone", "three bytes");
    // It is long ago that it was saved, and a moment that its version went.
    expect(await collect(["kept"], 10 * HOUR_MS)).toMatchObject({ caches: 0, archives: 0, waitingCaches: 1 });
    expect(await collect(["kept"], 10.5 * HOUR_MS)).toMatchObject({ caches: 0, waitingCaches: 1 });
    const report = await collect(["kept"], 11 * HOUR_MS);
    expect(report).toMatchObject({ caches: 1, archives: 1, waitingCaches: 0 });
    expect(report.deletedBytes).toBeGreaterThan("three bytes".length);
    expect(await objects()).toEqual(objectsOf(kept, "one"));
  });

  test("another engine is another cache: that of the former image goes", async () => {
    const before = await save("app", "one");
    const now = await save("app", "two", "sha256:engine-2");
    for (const hours of [2, 4]) await collect(["app"], hours * HOUR_MS, ["sha256:engine-2"]);
    expect(await objects()).toEqual(objectsOf(now, "two"));
    expect(before).not.toBe(now);
  });

  test("a version that comes back within the grace period finds its cache, and waits a whole one later", async () => {
    const key = await save("app", "one");
    await collect([], 2 * HOUR_MS);
    await collect(["app"], 2.5 * HOUR_MS);
    expect(await collect([], 3.5 * HOUR_MS)).toMatchObject({ caches: 0, waitingCaches: 1 });
    expect(await objects()).toEqual(objectsOf(key, "one"));
  });

  test("archives that no record names go when they are old, not while they are young", async () => {
    const key = await save("app", "one");
    await save("app", "two");
    expect(await collect(["app"], 0)).toMatchObject({ archives: 0 });
    expect(await collect(["app"], 2 * HOUR_MS)).toMatchObject({ caches: 0, archives: 1 });
    expect(await objects()).toEqual(objectsOf(key, "two"));
  });

  test("records that nobody can read go too, and what was never a cache stays", async () => {
    await bucket.put(recordKey(sha256("strange")), "not JSON");
    await bucket.put(recordKey(sha256("large")), "x".repeat(100_000));
    await bucket.put("compile-caches/README", "by hand");
    await collect([], 2 * HOUR_MS);
    expect(await collect([], 4 * HOUR_MS)).toMatchObject({ caches: 2 });
    expect(await objects()).toEqual(["compile-caches/README"]);
  });

  test.each([1, 2, 3])(
    "however often a cache is saved, %i archives stay, its record's among them",
    async (archivesMax) => {
      const contents = ["one", "two", "three", "four"];
      for (const [i, content] of contents.entries()) {
        const key = await save("app", content);
        await removeSpareArchives(bucket, key, sha256(content), { archivesMax });
        const archives = (await objects()).filter((name) => name.includes("archives"));
        expect(archives.length).toBe(Math.min(i + 1, archivesMax));
        expect(archives).toContain(archiveKey(key, sha256(content)));
      }
    },
  );
});

test("a cache belongs to one application, deployment, model, engine and environment", () => {
  const base = specification("app");
  expect(specification("app")).toBe(base);
  expect(specification("other")).not.toBe(base);
  expect(specification("app", { A: "1" })).not.toBe(base);
  expect(specificationOf("app", create(DeploymentSpecSchema, { name: "main" }))).toBeUndefined();
  expect(compileCacheKey(base, IMAGE, { ...MACHINE, cpu: "another" })).not.toBe(
    compileCacheKey(base, IMAGE, MACHINE),
  );
});
