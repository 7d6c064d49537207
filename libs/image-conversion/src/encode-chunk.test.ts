import { createHash, randomBytes } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";
import { openCodec } from "@pilotlight/codec";
import { describe, expect, test } from "vitest";
import { encodeChunk, encodePlainly } from "./encode-chunk.ts";

const OPTIONS = { level: 2, gainMin: 0.03 };
const text = Buffer.from("what compresses well, again and again; ".repeat(4_000)).subarray(0, 128 << 10);
const mixed = Buffer.concat([text.subarray(0, 40_000), randomBytes(60_000), text.subarray(0, 31_072)]);
const chunks: [string, Buffer][] = [
  ["text", text],
  ["noise", randomBytes(512 << 10)],
  ["a mixture", mixed],
  ["zeros", Buffer.alloc(64 << 10)],
  ["one page", Buffer.alloc(4096, "x")],
];

describe.runIf(openCodec() !== undefined)("native code and Node", () => {
  test.each(chunks)("make the same of %s", async (_, raw) => {
    const buffer = Buffer.alloc(512 << 10, 7);
    raw.copy(buffer);
    const plain = await encodePlainly(raw, OPTIONS);
    const encoded = await encodeChunk(buffer, raw.length, OPTIONS);
    expect(encoded.encoding).toBe(plain.encoding);
    expect(encoded.sha256.equals(createHash("sha256").update(raw).digest())).toBe(true);
    expect(encoded.wire.equals(plain.wire)).toBe(true);
    if (encoded.encoding === "zstd") expect(zstdDecompressSync(encoded.wire).equals(raw)).toBe(true);
  });
});

test("what is known is hashed only, and the buffer stays as it was", async () => {
  const buffer = Buffer.from(text);
  const encoded = await encodeChunk(buffer, buffer.length, OPTIONS, () => true);
  expect(encoded).toMatchObject({ encoding: "raw", rawLength: text.length });
  expect(encoded.wire).toHaveLength(0);
  expect(buffer.equals(text)).toBe(true);
});

test("level 0 stores everything as it is", async () => {
  const encoded = await encodeChunk(Buffer.from(text), text.length, { ...OPTIONS, level: 0 });
  expect(encoded.encoding).toBe("raw");
  expect(encoded.wire.equals(text)).toBe(true);
});

test.runIf(openCodec() !== undefined)("a chunk longer than its buffer is refused", () => {
  expect(() => openCodec()?.encode(Buffer.alloc(10), 11, 2, 0)).toThrow("longer than its buffer");
});
