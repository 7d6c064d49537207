import { createHash } from "node:crypto";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { encodeHotPack, parseHotPackSummary } from "./hot-pack.ts";
import { BLOB_KINDS, type ImageIndex } from "./image-index.ts";
import { encodeProfile, hotRuns, mergeProfile, type Profile, parseProfile } from "./profile.ts";
import { fuzzRuns } from "./testing/fuzz-runs.ts";

/** A data blob of chunks named by letters, each of 16 pages. */
function indexOf(letters: string): ImageIndex {
  const chunks = [...letters].map((letter) => ({
    sha256: createHash("sha256").update(letter).digest(),
    rawLength: 16 * 4096,
    pack: 1,
    packOffset: 0,
    wireLength: 100,
    encoding: letter === "0" ? ("zeros" as const) : ("zstd" as const),
  }));
  return {
    blobs: [
      { kind: BLOB_KINDS.erofsMetadata, chunks: [] },
      { kind: BLOB_KINDS.erofsData, chunks },
    ],
    packs: [],
  };
}

const ALL = 1 << 30;

describe("a profile", () => {
  test("keeps the order of first touch", () => {
    const index = indexOf("abc");
    const profile = mergeProfile(undefined, index, [
      [40, 2],
      [0, 1],
      [18, 3],
    ]);
    expect(hotRuns(profile, index, ALL)).toEqual([
      { page: 40, pages: 2 },
      { page: 0, pages: 1 },
      { page: 18, pages: 3 },
    ]);
  });
  test("follows content into another version of the image", () => {
    const profile = mergeProfile(undefined, indexOf("abc"), [
      [40, 2],
      [0, 1],
      [18, 3],
    ]);
    expect(hotRuns(profile, indexOf("xcyb"), ALL)).toEqual([
      { page: 24, pages: 2 },
      { page: 50, pages: 3 },
    ]);
  });
  test("forgets pages that two starts in a row did not touch", () => {
    const index = indexOf("abc");
    let profile: Profile | undefined;
    const start = (...runs: Array<[number, number]>) => {
      profile = mergeProfile(profile, index, runs);
      return hotRuns(profile, index, ALL).map(({ page }) => page);
    };
    expect(start([0, 1], [5, 1])).toEqual([0, 5]);
    expect(start([0, 1])).toEqual([0, 5]);
    expect(start([0, 1])).toEqual([0]);
    expect(start([0, 1], [5, 1])).toEqual([0, 5]);
    expect(profile?.starts).toBe(4);
  });
  test("carries a chunk whole when most of it is hot, zeros never, and stays within its bound", () => {
    const index = indexOf("ab0");
    const profile = mergeProfile(undefined, index, [
      [17, 12],
      [33, 4],
      [2, 3],
    ]);
    expect(hotRuns(profile, index, ALL)).toEqual([
      { page: 16, pages: 16 },
      { page: 2, pages: 3 },
    ]);
    expect(hotRuns(profile, index, 17 * 4096)).toEqual([
      { page: 16, pages: 16 },
      { page: 2, pages: 1 },
    ]);
  });
  test("is read as it was written; another version and rubbish are refused", () => {
    const profile = mergeProfile(undefined, indexOf("ab"), [[0, 3]]);
    expect(parseProfile(encodeProfile(profile))).toEqual(profile);
    const newer = zstdCompressSync(JSON.stringify({ ...profile, formatVersion: 2 }));
    expect(() => parseProfile(newer)).toThrow(expect.objectContaining({ code: "unsupported" }));
    for (const bytes of [
      Buffer.from("x"),
      zstdCompressSync("{}"),
      zstdCompressSync('{"formatVersion":1,"starts":0,"chunks":[]}'),
    ]) {
      expect(() => parseProfile(bytes)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/corrupt|unsupported/) }),
      );
    }
  });
});

describe("a hot pack", () => {
  test("holds every page of its runs once, in frames of verified content", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(fc.nat(300), { maxLength: 200 }), async (pages) => {
        const runs = pages.map((page) => ({ page, pages: 1 }));
        const contentOf = (page: number) => Buffer.alloc(4096, `page ${page} `);
        const pack = await encodeHotPack("ab".repeat(32), runs, async (run) =>
          Buffer.concat(Array.from({ length: run.pages }, (_, i) => contentOf(run.page + i))),
        );
        const { frames, runs: runCount, tableBytes } = parseHotPackSummary(pack);
        const seen = new Map<number, Buffer>();
        for (let f = 0; f < frames; f++) {
          const at = 64 + f * 64;
          const [offset, rawLength, wireLength, first, count] = [
            Number(pack.readBigUInt64LE(at + 32)),
            ...[40, 44, 48, 52].map((o) => pack.readUInt32LE(at + o)),
          ] as [number, number, number, number, number];
          const wire = pack.subarray(offset, offset + wireLength);
          const raw = pack[at + 56] === 1 ? zstdDecompressSync(wire) : wire;
          expect(raw).toHaveLength(rawLength);
          expect(
            createHash("sha256")
              .update(raw)
              .digest()
              .equals(pack.subarray(at, at + 32)),
          ).toBe(true);
          let position = 0;
          for (let r = first; r < first + count; r++) {
            const run = 64 + frames * 64 + r * 16;
            for (let i = 0; i < pack.readUInt32LE(run + 8); i++, position += 4096)
              seen.set(Number(pack.readBigUInt64LE(run)) + i, raw.subarray(position, position + 4096));
          }
        }
        expect(64 + tableBytes).toBeLessThanOrEqual(pack.length);
        expect(runCount).toBeLessThanOrEqual(pages.length);
        expect(new Set(seen.keys())).toEqual(new Set(pages));
        for (const [page, content] of seen) expect(content.equals(contentOf(page))).toBe(true);
      }),
      { numRuns: fuzzRuns(30) },
    );
  });
});
