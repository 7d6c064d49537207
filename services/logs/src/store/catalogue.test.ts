import { readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ByteSource, type ObjectStore, openStore } from "@pilotlight/object-store";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Bloom } from "../domain/bloom.ts";
import { hourFrom, type Segment, segmentKey, statsKey } from "../domain/segments.ts";
import { Catalogue } from "./catalogue.ts";

const HOUR = Date.parse("2026-11-21T10:00:00Z");
const STATISTICS = {
  rows: 1,
  timeMin: HOUR,
  timeMax: HOUR,
  requestIds: Buffer.from(Bloom.of(["q"]).bytes).toString("base64"),
};

let home: string;
let bucket: ObjectStore;
/** The same bucket as one that is no directory. */
let remote: ObjectStore;
let reads = 0;
const open = (store = bucket, cacheBytesMax = 1e6) =>
  new Catalogue({ bucket: store, cacheDirectory: join(home, "cache"), cacheBytesMax, statsBytesMax: 1_000 });
const key = (name: string) => segmentKey(hourFrom(HOUR), "chat", name);
const add = async (
  catalogue: Catalogue,
  name: string,
  content: string,
  replaces: string[] = [],
): Promise<Segment> => {
  await writeFile(join(home, name), content);
  const segment = await catalogue.add(key(name), join(home, name), STATISTICS, replaces);
  catalogue.replace([segment], []);
  return segment;
};
const keys = (catalogue: Catalogue) => [...catalogue.segments].map((segment) => segment.key).sort();
const none = () => false;

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "pilotlight-catalogue-"));
  await mkdir(join(home, "bucket"));
  bucket = openStore(`file://${home}/bucket`);
  reads = 0;
  remote = {
    uri: bucket.uri,
    writable: true,
    head: (...all) => bucket.head(...all),
    get: (...all) => bucket.get(...all),
    put: (...all) => bucket.put(...all),
    list: (...all) => bucket.list(...all),
    delete: (...all) => bucket.delete(...all),
    close: () => bucket.close(),
    place: (...all) => bucket.place(...all),
    async locate(name): Promise<ByteSource> {
      const { info } = await bucket.locate(name);
      return {
        kind: "http",
        url: "http://elsewhere",
        headers: {},
        expiresAt: Number.MAX_SAFE_INTEGER,
        info,
        etagAskable: true,
      };
    },
    stream(...all) {
      reads++;
      return bucket.stream(...all);
    },
  };
});
afterEach(() => rm(home, { recursive: true, force: true }));

test("what was added is found by another catalogue, except what a local journal still holds", async () => {
  const first = open();
  expect(first.isListed).toBe(false);
  await add(first, "w-1", "one");
  await add(first, "w-2", "two");
  await bucket.put("logs/v1/readme.txt", "not a segment");
  const second = open();
  await second.refresh((journal) => journal === "w-2");
  expect(second.isListed).toBe(true);
  expect(keys(second)).toEqual([key("w-1")]);
});
test("replaced segments are gone, and deleted by whoever sees them", async () => {
  const catalogue = open();
  await add(catalogue, "w-1", "one");
  await add(catalogue, "w-2", "two");
  await add(catalogue, "w-m3", "both", [key("w-1"), key("w-2")]);
  await catalogue.refresh(none);
  expect(keys(catalogue)).toEqual([key("w-m3")]);
  expect(await bucket.head(key("w-1"))).toBeUndefined();
  expect(await bucket.head(statsKey(key("w-1")))).toBeUndefined();
});
test("a segment without statistics, or with senseless ones, must be read", async () => {
  const catalogue = open();
  const segment = await add(catalogue, "w-1", "one");
  expect(await catalogue.stats(segment)).toMatchObject({ rows: 1 });
  for (const content of ["{}", "no json", undefined]) {
    if (content === undefined) await bucket.delete(statsKey(segment.key));
    else await bucket.put(statsKey(segment.key), content);
    expect(await open().stats(segment)).toBeUndefined();
  }
});
test("a segment of a directory is read in place; of another bucket a copy is made once and kept within the bound", async () => {
  const inPlace = open();
  const [one, two, three] = await Promise.all(
    ["w-1", "w-2", "w-3"].map((name) => add(inPlace, name, name.repeat(100))),
  );
  expect(await inPlace.file(one as Segment)).toBe(join(home, "bucket", key("w-1")));
  const copying = open(remote, 700);
  const paths = await Promise.all([copying.file(one as Segment), copying.file(one as Segment)]);
  expect(paths[0]).toBe(paths[1]);
  expect(readFileSync(paths[0] as string, "utf8")).toBe("w-1".repeat(100));
  expect(reads).toBe(1);
  await copying.file(two as Segment);
  await copying.file(three as Segment);
  expect(readdirSync(join(home, "cache"))).toHaveLength(2);
  expect(reads).toBe(3);
  await copying.file(three as Segment);
  expect(reads).toBe(3);
  await copying.delete([one as Segment]);
  await expect(copying.file(one as Segment)).rejects.toMatchObject({ code: "notFound" });
});
test("statistics in memory are bounded, and read again when needed", async () => {
  const catalogue = open();
  const segments: Segment[] = [];
  for (let i = 1; i <= 40; i++) segments.push(await add(catalogue, `w-${i}`, "x"));
  for (const segment of segments) expect(await catalogue.stats(segment)).toBeDefined();
  expect(await catalogue.stats(segments[0] as Segment)).toMatchObject({ timeMin: HOUR });
});
