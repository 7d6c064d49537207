// What every writable kind of store must do, as one suite that runs on each of them.
import { createHash, randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ObjectStore } from "../store.ts";
import { S3_START_TIMEOUT_MS } from "./s3-server.ts";

const MiB = 1024 * 1024;

/**
 * Defines the suite for one kind of store.
 * @param place makes an empty place; its `open` is called twice for two independent clients of that place.
 * @param ignored conditions that the server is known to ignore; what the store does with them is tested elsewhere.
 */
export function conformanceSuite(
  name: string,
  place: () => Promise<{ open: () => ObjectStore; remove: () => Promise<void> }>,
  ignored: readonly ("conditional deletes" | "conditional uploads in parts")[] = [],
): void {
  describe(`object store on ${name}`, () => {
    let store: ObjectStore;
    let other: ObjectStore;
    let remove: () => Promise<void>;
    beforeAll(async () => {
      const placed = await place();
      store = placed.open();
      other = placed.open();
      remove = placed.remove;
    }, S3_START_TIMEOUT_MS);
    afterAll(async () => {
      await store.close();
      await other.close();
      await remove();
    });

    const text = async (key: string) => Buffer.from((await store.get(key)).bytes).toString();

    describe("writing and reading", () => {
      test("what was put comes back, to any client, with size and ETag", async () => {
        const put = await store.put("a/b.txt", "hello", { contentType: "text/plain" });
        expect(put).toMatchObject({ key: "a/b.txt", size: 5 });
        const { info, bytes, offset } = await other.get("a/b.txt");
        expect(Buffer.from(bytes).toString()).toBe("hello");
        expect({ offset, etag: info.etag, size: info.size }).toEqual({ offset: 0, etag: put.etag, size: 5 });
        expect(await store.head("a/b.txt")).toEqual(info);
        expect(info.modifiedAt).toBeGreaterThan(Date.UTC(2020));
      });
      test("an absent object is undefined for head and notFound for the rest", async () => {
        expect(await store.head("absent")).toBeUndefined();
        await expect(store.get("absent")).rejects.toMatchObject({ code: "notFound" });
        await expect(store.stream("absent")).rejects.toMatchObject({ code: "notFound" });
        await expect(store.locate("absent")).rejects.toMatchObject({ code: "notFound" });
      });
      test("an empty object is an object", async () => {
        await store.put("empty", "");
        expect(await store.head("empty")).toMatchObject({ size: 0 });
        expect((await store.get("empty")).bytes.byteLength).toBe(0);
        expect(await collect((await store.stream("empty")).body)).toHaveLength(0);
      });
      test("replacing changes bytes and ETag", async () => {
        const first = await store.put("replaced", "one");
        const second = await store.put("replaced", "two");
        expect(second.etag).not.toBe(first.etag);
        expect(await text("replaced")).toBe("two");
      });
      test("more than bytesMax is refused", async () => {
        await store.put("large", "0123456789");
        await expect(store.get("large", { bytesMax: 9 })).rejects.toMatchObject({ code: "invalidArgument" });
      });
      test("bytes that lack the promised digest are not stored", async () => {
        const sha256 = createHash("sha256").update("right").digest("hex");
        await store.put("digest", "right", { sha256 });
        for (const body of ["wrong", pieces(Buffer.from("wrong"), 2)]) {
          await expect(store.put("digest-wrong", body, { sha256 })).rejects.toMatchObject({
            code: "corrupt",
          });
        }
        expect(await store.head("digest-wrong")).toBeUndefined();
      });
      test("a stream of many parts is stored whole and its digest checked", async () => {
        const bytes = randomBytes(21 * MiB + 12_345);
        const sha256 = createHash("sha256").update(bytes).digest("hex");
        const info = await store.put("parts", pieces(bytes, 1_000_000), { sha256 });
        expect(info.size).toBe(bytes.byteLength);
        expect((await store.head("parts"))?.etag).toBe(info.etag);
        const back = await collect((await other.stream("parts")).body);
        expect(back.equals(bytes)).toBe(true);
        await expect(
          store.put("parts", pieces(bytes.subarray(1), 1_000_000), { sha256 }),
        ).rejects.toMatchObject({
          code: "corrupt",
        });
        expect((await store.head("parts"))?.etag).toBe(info.etag);
      }, 60_000);
      test("a stream that fails leaves nothing", async () => {
        const failing = async function* () {
          yield randomBytes(9 * MiB);
          yield randomBytes(9 * MiB);
          throw new Error("source broke");
        };
        await expect(store.put("half", failing())).rejects.toThrow("source broke");
        expect(await store.head("half")).toBeUndefined();
      }, 30_000);
    });

    describe("ranges", () => {
      beforeAll(async () => {
        await store.put("range", "0123456789");
      });
      test.each([
        [{ offset: 0, length: 1 }, 0, "0"],
        [{ offset: 3, length: 4 }, 3, "3456"],
        [{ offset: 8 }, 8, "89"],
        [{ offset: 8, length: 100 }, 8, "89"],
        [{ suffix: 3 }, 7, "789"],
        [{ suffix: 100 }, 0, "0123456789"],
      ])("%j", async (range, offset, expected) => {
        const got = await store.get("range", { range });
        expect(Buffer.from(got.bytes).toString()).toBe(expected);
        expect({ offset: got.offset, size: got.info.size }).toEqual({ offset, size: 10 });
        const stream = await store.stream("range", { range });
        expect({ offset: stream.offset, length: stream.length }).toEqual({ offset, length: expected.length });
        expect((await collect(stream.body)).toString()).toBe(expected);
      });
      test.each([
        [{ offset: 10 }],
        [{ offset: 11, length: 5 }],
        [{ suffix: 0 }],
        [{ offset: -1 }],
        [{ offset: 0.5 }],
      ])("%j is refused", async (range) => {
        await expect(store.get("range", { range })).rejects.toMatchObject({
          code: "invalidArgument",
          field: "range",
        });
        await expect(store.stream("range", { range })).rejects.toMatchObject({ code: "invalidArgument" });
      });
      test("reading is pinned by ETag", async () => {
        const { etag } = await store.put("pinned", "first");
        expect(Buffer.from((await store.get("pinned", { ifMatch: etag })).bytes).toString()).toBe("first");
        await store.put("pinned", "second");
        await expect(store.get("pinned", { ifMatch: etag })).rejects.toMatchObject({
          code: "preconditionFailed",
        });
        await expect(store.stream("pinned", { ifMatch: etag })).rejects.toMatchObject({
          code: "preconditionFailed",
        });
      });
    });

    describe("conditional writes", () => {
      test("ifNoneMatch creates once", async () => {
        const first = await store.put("once", "1", { ifNoneMatch: "*" });
        await expect(other.put("once", "2", { ifNoneMatch: "*" })).rejects.toMatchObject({
          code: "preconditionFailed",
        });
        expect(await store.head("once")).toMatchObject({ etag: first.etag });
      });
      test("of 16 racing creators one wins, and its bytes stay", async () => {
        const results = await Promise.allSettled(
          Array.from({ length: 16 }, (_, i) =>
            (i % 2 === 0 ? store : other).put("race", `writer ${i}`, { ifNoneMatch: "*" }),
          ),
        );
        const winners = results.flatMap((result, i) => (result.status === "fulfilled" ? [i] : []));
        expect(winners).toHaveLength(1);
        expect(await text("race")).toBe(`writer ${winners[0]}`);
        for (const result of results) {
          if (result.status === "rejected")
            expect(result.reason).toMatchObject({ code: "preconditionFailed" });
        }
      });
      test("ifMatch replaces the version that was read, and only that", async () => {
        const first = await store.put("swap", "1");
        const second = await store.put("swap", "2", { ifMatch: first.etag });
        await expect(store.put("swap", "3", { ifMatch: first.etag })).rejects.toMatchObject({
          code: "preconditionFailed",
        });
        expect((await store.head("swap"))?.etag).toBe(second.etag);
        await expect(store.put("swap-absent", "1", { ifMatch: first.etag })).rejects.toMatchObject({
          code: "preconditionFailed",
        });
      });
      test("of 16 racing replacers of one version one wins", async () => {
        const { etag } = await store.put("swap-race", "start");
        const results = await Promise.allSettled(
          Array.from({ length: 16 }, (_, i) =>
            (i % 2 === 0 ? store : other).put("swap-race", `writer ${i}`, { ifMatch: etag }),
          ),
        );
        const winners = results.flatMap((result, i) => (result.status === "fulfilled" ? [i] : []));
        expect(winners).toHaveLength(1);
        expect(await text("swap-race")).toBe(`writer ${winners[0]}`);
      });
      test.skipIf(ignored.includes("conditional uploads in parts"))(
        "an upload in parts keeps ifNoneMatch",
        async () => {
          const bytes = randomBytes(9 * MiB);
          await store.put("large-once", pieces(bytes, MiB), { ifNoneMatch: "*" });
          await expect(
            store.put("large-once", pieces(bytes, MiB), { ifNoneMatch: "*" }),
          ).rejects.toMatchObject({
            code: "preconditionFailed",
          });
        },
        30_000,
      );
    });

    describe("deleting", () => {
      test("deletes, and deleting again is no error", async () => {
        await store.put("folder/deleted", "x");
        await store.delete("folder/deleted");
        await store.delete("folder/deleted");
        expect(await store.head("folder/deleted")).toBeUndefined();
      });
      test.skipIf(ignored.includes("conditional deletes"))(
        "with ifMatch only the version that was read",
        async () => {
          const { etag } = await store.put("deleted-match", "1");
          const { etag: newer } = await store.put("deleted-match", "2");
          await expect(store.delete("deleted-match", { ifMatch: etag })).rejects.toMatchObject({
            code: "preconditionFailed",
          });
          await store.delete("deleted-match", { ifMatch: newer });
          expect(await store.head("deleted-match")).toBeUndefined();
        },
      );
    });

    describe("listing", () => {
      const keys = ["l/a", "l/a.txt", "l/a/b", "l/a0", "l/b/c/d", "l/z", "l/é"].filter(
        (key) => key !== "l/a",
      );
      beforeAll(async () => {
        for (const key of keys) await store.put(key, key);
      });
      const listed = async (options?: Parameters<ObjectStore["list"]>[0]) => {
        const found: string[] = [];
        for await (const { key } of store.list(options)) found.push(key);
        return found;
      };
      test("in byte order, under a prefix, with size and ETag", async () => {
        expect(await listed({ prefix: "l/" })).toEqual(keys);
        for await (const info of store.list({ prefix: "l/z" })) expect(info).toEqual(await store.head("l/z"));
      });
      test("a prefix is no folder", async () => {
        expect(await listed({ prefix: "l/a" })).toEqual(["l/a.txt", "l/a/b", "l/a0"]);
        expect(await listed({ prefix: "l/a/" })).toEqual(["l/a/b"]);
        expect(await listed({ prefix: "nothing" })).toEqual([]);
      });
      test("after a key", async () => {
        expect(await listed({ prefix: "l/", startAfter: "l/a/b" })).toEqual([
          "l/a0",
          "l/b/c/d",
          "l/z",
          "l/é",
        ]);
      });
      test("over several pages", async () => {
        const many = Array.from({ length: 1005 }, (_, i) => `page/${String(i).padStart(4, "0")}`);
        for (let i = 0; i < many.length; i += 64) {
          await Promise.all(many.slice(i, i + 64).map((key) => store.put(key, "")));
        }
        expect(await listed({ prefix: "page/" })).toEqual(many);
      }, 60_000);
    });

    describe("keys", () => {
      test.each([
        "a b+c&d=e?f#g",
        "%2e%2e/x",
        "ünïcödé/日本/🚀",
        "'()!*~,;:@$",
        "a..b/...",
        "x".repeat(200),
        "~",
      ])("%j is kept as it is", async (key) => {
        const full = `odd/${key}`;
        await store.put(full, key);
        expect(Buffer.from((await other.get(full)).bytes).toString()).toBe(key);
        const found: string[] = [];
        for await (const info of store.list({ prefix: full })) found.push(info.key);
        expect(found).toEqual([full]);
        await store.delete(full);
      });
      test.each([
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "./a",
        "a\0b",
        "a\nb",
        "x".repeat(1025),
        "\ud800",
      ])("%j is refused", async (key) => {
        await expect(store.put(key, "x")).rejects.toMatchObject({ code: "invalidArgument", field: "key" });
        await expect(store.get(key)).rejects.toMatchObject({ code: "invalidArgument", field: "key" });
        await expect(store.head(key)).rejects.toMatchObject({ code: "invalidArgument", field: "key" });
        await expect(store.delete(key)).rejects.toMatchObject({ code: "invalidArgument", field: "key" });
      });
    });

    describe("cancelling", () => {
      test("an aborted read or write ends as cancelled and stores nothing", async () => {
        await store.put("cancel", randomBytes(4 * MiB));
        const aborted = AbortSignal.abort();
        await expect(store.get("cancel", { signal: aborted })).rejects.toMatchObject({ code: "cancelled" });
        await expect(store.put("cancelled", "x", { signal: aborted })).rejects.toMatchObject({
          code: "cancelled",
        });
        const controller = new AbortController();
        const { body } = await store.stream("cancel", { signal: controller.signal });
        const reading = (async () => {
          for await (const _ of body) controller.abort();
        })();
        await expect(reading).rejects.toMatchObject({ code: "cancelled" });
        expect(await store.head("cancelled")).toBeUndefined();
      });
      test("leaving a stream early frees it", async () => {
        for await (const chunk of (await store.stream("cancel")).body) {
          expect(chunk.byteLength).toBeGreaterThan(0);
          break;
        }
        expect(await store.head("cancel")).toBeDefined();
      });
    });

    test("locate tells a native reader where the bytes are, and place whether they are there or not", async () => {
      const place = store.uri.startsWith("hf:") ? undefined : await store.place("located");
      await store.put("located", "0123456789");
      const source = await store.locate("located");
      if (place !== undefined) expect(place.kind).toBe(source.kind);
      if (place?.kind === "file" && source.kind === "file") expect(place.path).toBe(source.path);
      if (place?.kind === "http") {
        const response = await fetch(place.url, { headers: { ...place.headers, range: "bytes=2-4" } });
        expect(await response.text()).toBe("234");
      }
      expect(source.info).toMatchObject({ key: "located", size: 10 });
      if (source.kind === "http") {
        const headers = { ...source.headers, range: "bytes=2-4", "if-match": `"${source.info.etag}"` };
        const answer = await fetch(source.url, { headers });
        expect([answer.status, await answer.text()]).toEqual([206, "234"]);
      }
    });
  });
}

async function collect(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < bytes.byteLength; offset += size) yield bytes.subarray(offset, offset + size);
}
