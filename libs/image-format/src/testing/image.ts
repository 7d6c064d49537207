// Layers from tar archives, in memory, without compression: what the converter does, small enough for unit tests.
import { createHash } from "node:crypto";
import type { LayerChunk, LayerRecord } from "../layer-record.ts";
import { LayerScanner } from "../layer-scan.ts";

export const TEST_CHUNK_BYTES = 64 << 10;

export type TestLayer = { record: LayerRecord; chunks: Buffer[] };

/** Scans an archive; `pieceBytes` cuts it into pushes of this size. */
export function scanTar(archive: Buffer, pieceBytes = archive.length): TestLayer {
  const chunks: Buffer[] = [];
  const scanner = new LayerScanner(TEST_CHUNK_BYTES, {
    // Filled with rubbish: nothing of it may reach a chunk.
    acquire: () => Buffer.alloc(TEST_CHUNK_BYTES, 0xee),
    chunk: (number, buffer, length) => {
      chunks[number] = Buffer.from(buffer.subarray(0, length));
    },
    zeros: (number) => {
      chunks[number] = Buffer.alloc(TEST_CHUNK_BYTES);
    },
  });
  for (let at = 0; at < archive.length; ) at += scanner.push(archive.subarray(at, at + pieceBytes));
  scanner.finish();
  let packOffset = 0;
  const placed = chunks.map((raw): LayerChunk => {
    const chunk = {
      sha256: createHash("sha256").update(raw).digest(),
      rawLength: raw.length,
      pack: 0,
      packOffset,
      wireLength: raw.length,
      encoding: "raw" as const,
    };
    packOffset += raw.length;
    return chunk;
  });
  const pack = Buffer.concat(chunks);
  const packs =
    pack.length === 0 ? [] : [{ sha256: createHash("sha256").update(pack).digest(), size: pack.length }];
  return {
    record: { entries: scanner.entries, contentBytes: scanner.contentBytes, chunks: placed, packs },
    chunks,
  };
}
