import { readdirSync } from "node:fs";
import { readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { CompileCacheOutcome, ReplicaPhase, type ReplicaStatus } from "@pilotlight/contracts";
import { startTestNats, type TestServer } from "@pilotlight/testing";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { TestNode } from "../testing/harness.ts";

let nats: TestServer;
let node: TestNode;

beforeAll(async () => {
  nats = await startTestNats();
  node = await TestNode.start(nats.url);
  await node.startAgent({
    COMPILE_CACHE_SETTLE_MS: "10",
    COMPILE_CACHE_ARCHIVES_MAX: "3",
    ACCELERATORS: "64",
    MEMORY_MIB: "65536",
  });
});
afterAll(async () => {
  await node.close();
  await nats.stop();
});
afterEach(() => node.killWorkers());

const CACHE = { variables: ["TEST_COMPILE_CACHE"], sizeMaxMib: 1, key: "" };
const archives = () => join(node.home, "bucket/compile-caches/archives");
const archivePaths = () =>
  readdirSync(archives(), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));

/** Starts a replica and waits until it is ready. */
async function start(name: string, cache: Partial<typeof CACHE> = {}): Promise<ReplicaStatus> {
  const replica = `chat-main-v2-${name}`;
  await node.want(replica, "ready", { compileCache: { ...CACHE, ...cache } } as never);
  return node.reaches(replica, ReplicaPhase.READY);
}

/** What the worker found in its folder. */
async function found(name: string): Promise<string[]> {
  const line = () => node.lines(`chat-main-v2-${name}`).find(({ message }) => message === "cache");
  await expect.poll(line).toBeDefined();
  return (JSON.parse(line()?.fieldsJson ?? "{}") as { files: string[] }).files;
}

const saved = (name: string) =>
  expect.poll(() => node.latest(`chat-main-v2-${name}`)?.compileCache?.savedBytes).toBe(8n);

/** As on a node that never ran the version. */
const forget = () => rm(join(node.stateDir, "compile-caches"), { recursive: true });

test("the first start finds nothing and saves what it compiled; the next one elsewhere finds that", async () => {
  expect((await start("first")).compileCache?.outcome).toBe(CompileCacheOutcome.MISS);
  expect(await found("first")).toEqual([]);
  await saved("first");
  await forget();
  const next = await start("next");
  expect(next.compileCache).toMatchObject({ outcome: CompileCacheOutcome.HIT, bytes: 8n, savedBytes: 0n });
  expect(await found("next")).toEqual(["kernel.bin"]);
});

test("a second replica on the node takes what is there", async () => {
  expect((await start("beside")).compileCache?.outcome).toBe(CompileCacheOutcome.HELD);
  expect(await found("beside")).toEqual(["kernel.bin"]);
});

test("another key, such as another engine's version, is another cache", async () => {
  expect((await start("other", { key: "driver 2" })).compileCache?.outcome).toBe(CompileCacheOutcome.MISS);
  await saved("other");
});

test("a broken archive is no reason for a failed start, and is replaced", async () => {
  for (const path of archivePaths()) await writeFile(path, "not what it was");
  await forget();
  expect((await start("broken")).compileCache?.outcome).toBe(CompileCacheOutcome.BROKEN);
  expect(await found("broken")).toEqual([]);
  await saved("broken");
  await forget();
  expect((await start("repaired")).compileCache?.outcome).toBe(CompileCacheOutcome.HIT);
});

test("an archive that is gone is one that never was, and others of the same cache do not pile up", async () => {
  const [archive] = archivePaths();
  const folder = dirname(String(archive));
  await rm(String(archive));
  for (const digit of ["1", "2", "3", "4"])
    await writeFile(join(folder, `${digit.repeat(64)}.tar.zst`), "earlier");
  await forget();
  const keys = [{}, { key: "driver 2" }];
  const outcomes = [];
  for (const [i, cache] of keys.entries()) {
    const { compileCache } = await start(`gone-${i}`, cache);
    outcomes.push(compileCache?.outcome);
    if (compileCache?.outcome === CompileCacheOutcome.MISS) await saved(`gone-${i}`);
  }
  // One of the two had the archive.
  expect(outcomes.sort()).toEqual([CompileCacheOutcome.HIT, CompileCacheOutcome.MISS].sort());
  expect(await readdir(folder)).toHaveLength(3);
});

test("what holds more than it may is not kept, and the replica serves", async () => {
  const before = archivePaths().length;
  const replica = await start("large", { key: "large", sizeMaxMib: 0 });
  expect(replica.compileCache).toMatchObject({ outcome: CompileCacheOutcome.MISS, savedBytes: 0n });
  expect(archivePaths()).toHaveLength(before);
});
