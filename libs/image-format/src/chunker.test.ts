import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fuzzRuns } from "./testing/fuzz-runs.ts";
import { scanTar, TEST_CHUNK_BYTES } from "./testing/image.ts";
import { tar } from "./testing/tar.ts";

function files(sizes: ReadonlyArray<[name: string, size: number]>): Buffer {
  return tar(sizes.map(([name, size]) => ({ name, content: contentOf(name, size) })));
}

function contentOf(name: string, size: number): Buffer {
  const seed = createHash("sha256").update(name).digest();
  return Buffer.alloc(size, seed);
}

describe("chunks", () => {
  test("every file can be read back from its place, on a block's border, padded with zeros", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(4 * TEST_CHUNK_BYTES), { maxLength: 30 }),
        fc.integer({ min: 100, max: 200_000 }),
        (sizes, pieceBytes) => {
          const named = sizes.map((size, i): [string, number] => [`file${i}`, size]);
          const { record, chunks } = scanTar(files(named), pieceBytes);
          expect(
            chunks.every(({ length }) => length > 0 && length <= TEST_CHUNK_BYTES && length % 4096 === 0),
          ).toBe(true);
          for (const { path, size, place } of record.entries) {
            if (place === undefined) {
              expect(size).toBe(0);
              continue;
            }
            expect(place.offset % 4096).toBe(0);
            const all = Buffer.concat(chunks.slice(place.chunk)).subarray(place.offset);
            expect(all.subarray(0, size).equals(contentOf(path, size))).toBe(true);
            const padding = all.subarray(size, Math.ceil(size / 4096) * 4096);
            expect(padding.every((byte) => byte === 0)).toBe(true);
          }
        },
      ),
      { numRuns: fuzzRuns(60) },
    );
  });

  test("a changed, added or removed small file changes few chunks", () => {
    const named = Array.from({ length: 2000 }, (_, i): [string, number] => [
      `app/node_modules/p${i % 97}/file${i}.js`,
      200 + ((i * 7919) % 9000),
    ]);
    const hashes = (list: ReadonlyArray<[string, number]>) =>
      new Set(scanTar(files(list)).record.chunks.map(({ sha256 }) => sha256.toString("hex")));
    const before = hashes(named);
    const changes = [
      named.map(([name, size], i): [string, number] => (i === 700 ? [name, size + 5000] : [name, size])),
      named.filter((_, i) => i !== 300),
      [...named.slice(0, 1000), ["app/new.js", 12_345] as [string, number], ...named.slice(1000)],
    ];
    for (const changed of changes) {
      const added = [...hashes(changed)].filter((hash) => !before.has(hash));
      expect(added.length).toBeLessThanOrEqual(8);
      expect(before.size).toBeGreaterThan(150);
    }
  });

  test("a large file has the same chunks whatever stands before it", () => {
    const big: [string, number] = ["big", 10 * TEST_CHUNK_BYTES + 5];
    const alone = scanTar(files([big])).record.chunks.map(({ sha256 }) => sha256.toString("hex"));
    const among = scanTar(files([["a", 1000], big, ["z", 2000]])).record.chunks.map(({ sha256 }) =>
      sha256.toString("hex"),
    );
    expect(among).toEqual(expect.arrayContaining(alone));
  });

  test("a layer is bounded in entries and bytes", () => {
    expect(() => scanTar(tar([{ name: "../x" }]))).toThrow(expect.objectContaining({ code: "corrupt" }));
    expect(() => scanTar(tar([{ name: `${"x".repeat(256)}`, pax: { path: "y".repeat(256) } }]))).toThrow(
      expect.objectContaining({ code: "corrupt" }),
    );
    expect(() => scanTar(tar([{ name: "l", type: "2", link: "" }]))).toThrow(
      expect.objectContaining({ code: "corrupt" }),
    );
  });
});
