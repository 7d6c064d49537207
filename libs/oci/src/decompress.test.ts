import { createHash } from "node:crypto";
import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decompressed } from "./decompress.ts";

async function all(bytes: Buffer, pieceBytes: number, native = true): Promise<Buffer> {
  async function* source(): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
  }
  const pieces: Buffer[] = [];
  let told: string | undefined;
  const onDigest = (digest: string) => {
    told = digest;
  };
  for await (const piece of decompressed(source(), { native, onDigest })) pieces.push(Buffer.from(piece));
  const content = Buffer.concat(pieces);
  expect(told).toBe(`sha256:${createHash("sha256").update(content).digest("hex")}`);
  return content;
}

const A = Buffer.alloc(100_000, "a");
const B = Buffer.from(Array.from({ length: 70_000 }, (_, i) => (i * i) % 251));
const SKIPPABLE = Buffer.concat([Buffer.from("502a4d1803000000", "hex"), Buffer.from("abc")]);
const checksummed = (bytes: Buffer) => zstdCompressSync(bytes, { params: { 201: 1 } });

describe.each([
  ["native code", true],
  ["Node", false],
])("decompression by %s", (_, native) => {
  test.each<[string, Buffer, Buffer]>([
    ["nothing", A, A],
    ["an empty stream", Buffer.alloc(0), Buffer.alloc(0)],
    ["gzip", gzipSync(A), A],
    // Comes out in whole pieces, the last of which is full.
    ["gzip of whole pieces", gzipSync(Buffer.alloc(4 << 20, "ab")), Buffer.alloc(4 << 20, "ab")],
    ["gzip with padding", Buffer.concat([gzipSync(A), Buffer.alloc(512)]), A],
    ["gzip in members", Buffer.concat([gzipSync(A), gzipSync(B)]), Buffer.concat([A, B])],
    ["zstd", zstdCompressSync(B), B],
    [
      "zstd in frames",
      Buffer.concat([zstdCompressSync(A), zstdCompressSync(B), checksummed(A)]),
      Buffer.concat([A, B, A]),
    ],
    [
      "zstd with frames to skip",
      Buffer.concat([SKIPPABLE, zstdCompressSync(A), SKIPPABLE, zstdCompressSync(B), SKIPPABLE]),
      Buffer.concat([A, B]),
    ],
    ["an empty zstd frame", zstdCompressSync(Buffer.alloc(0)), Buffer.alloc(0)],
  ])("%s comes out as it went in, whatever the pieces", async (_name, stored, expected) => {
    for (const pieceBytes of [1, 7, 4096, stored.length + 1])
      expect((await all(stored, pieceBytes, native)).equals(expected)).toBe(true);
  });
  test.each<[string, Buffer]>([
    ["truncated gzip", gzipSync(B).subarray(0, -9)],
    [
      "gzip with a wrong checksum",
      Buffer.from(gzipSync(B)).fill(0, gzipSync(B).length - 8, gzipSync(B).length - 4),
    ],
    ["gzip without its last byte", gzipSync(B).subarray(0, -1)],
    ["rubbish after gzip", Buffer.concat([gzipSync(A), Buffer.from("rubbish")])],
    ["truncated zstd", zstdCompressSync(B).subarray(0, -2)],
    ["rubbish after a zstd frame", Buffer.concat([zstdCompressSync(A), Buffer.from("rubbish")])],
  ])("%s is refused", async (_name, stored) => {
    await expect(all(stored, 1000, native)).rejects.toMatchObject({ code: "corrupt" });
  });
  test("any sequence of zstd frames in any pieces", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 3000 }), { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 1, max: 500 }),
        async (parts, pieceBytes) => {
          const stored = Buffer.concat(parts.map((part) => zstdCompressSync(part)));
          expect((await all(stored, pieceBytes, native)).equals(Buffer.concat(parts))).toBe(true);
        },
      ),
      { numRuns: 50 },
    );
  });
});

test("what is left early ends its source", async () => {
  let ended = false;
  async function* source(): AsyncGenerator<Buffer> {
    try {
      while (true) yield gzipSync(B);
    } finally {
      ended = true;
    }
  }
  for await (const piece of decompressed(source())) if (piece.length > 0) break;
  expect(ended).toBe(true);
});
