import { readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "@pilotlight/object-store";
import { createMover } from "@pilotlight/streamer";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import type { SegmentMaker } from "./ports.ts";
import type { Repository } from "./repository.ts";
import { openSegmentFiles } from "./segment-files.ts";

const PAGE = 4096;
const SPARE = 16 * PAGE;
const mover = createMover({ threads: 1, silenceMs: 1000, connectTimeoutMs: 2_000 });
const store = openStore("https://nowhere.test/");
let folder: string;
let ready: Promise<unknown>;
let maker: SegmentMaker & { close(): void };

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-spare-"));
  const { promise, resolve } = Promise.withResolvers();
  ready = promise;
  maker = openSegmentFiles({
    memory: { directory: join(folder, "memory"), bytesMax: 40 * PAGE },
    disk: { directory: join(folder, "disk"), bytesMax: 0 },
    reserveBytes: 0,
    spare: {
      bytes: SPARE,
      delayMs: 0,
      mover,
      onReady: resolve,
      onFailure: (reason) => {
        throw new Error(reason);
      },
    },
  });
});
afterEach(() => {
  maker.close();
  rmSync(folder, { recursive: true });
});
afterAll(async () => {
  mover.close();
  await store.close();
});

const names = (): string[] => readdirSync(join(folder, "memory")).filter((name) => !name.startsWith("owner"));
const create = (...sizes: number[]) => {
  const weights = sizes.map((bytes) => ({ bytes }));
  const bytesTotal = sizes.reduce((a, b) => a + b, 0);
  return maker.create({ weights, bytesTotal } as unknown as Repository, store, () => false);
};

test("a load takes the memory that is ready: its files one after the other, each on a page", async () => {
  await ready;
  const set = await create(PAGE + 100, 5 * PAGE);
  const [first, second] = set.segments;
  expect(second).toMatchObject({ path: first?.path, base: 2 * PAGE, bytes: 5 * PAGE });
  expect(first?.memory?.settle()).toBe(SPARE);
  first?.write(Buffer.from("head"), 0);
  second?.write(Buffer.from("tail"), 5 * PAGE - 4);
  const bytes = readFileSync(first?.path ?? "");
  expect(bytes.byteLength).toBe(7 * PAGE);
  expect(bytes.subarray(0, 4).toString() + bytes.subarray(-4).toString()).toBe("headtail");
});

test("the next memory is made ready once a load has ended, and counts as held by nobody", async () => {
  await ready;
  expect(maker.usage().bytesUsed).toBe(0);
  const set = await create(3 * PAGE);
  expect(maker.usage().bytesUsed).toBe(3 * PAGE);
  expect(names()).toEqual(["weights-1"]);
  for (const segment of set.segments) segment.seal();
  expect(names()).toEqual(["weights-1"]);
  await expect.poll(names).toContain("spare-2");
  expect(maker.usage().bytesUsed).toBe(3 * PAGE);
  set.remove();
  expect(names()).toEqual(["spare-2"]);
  expect(maker.usage().bytesUsed).toBe(0);
});

test("a load that is larger grows the file; one that is tiny leaves the memory to others", async () => {
  await ready;
  const tiny = await create(100);
  expect(names()).toContain("spare-1");
  const large = await create(30 * PAGE);
  expect(statSync(large.segments[0]?.path ?? "").size).toBe(30 * PAGE);
  expect(names()).not.toContain("spare-1");
  tiny.remove();
  large.remove();
});

test("what is only ready gives way to weights that need the room", async () => {
  await ready;
  await create(100);
  const first = await create(20 * PAGE);
  for (const segment of first.segments) segment.seal();
  await expect.poll(names).toContain("spare-2");
  const second = await create(19 * PAGE);
  expect(maker.usage().bytesUsed).toBe(100 + 39 * PAGE);
  await expect(create(PAGE)).rejects.toMatchObject({ code: "resourceExhausted" });
  second.remove();
});
