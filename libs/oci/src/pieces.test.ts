import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { filePieces, inPieces, PIECE_BYTES } from "./pieces.ts";

const scratch = mkdtempSync(join(tmpdir(), "pieces-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const content = (bytes: number) =>
  Buffer.from(Uint32Array.from({ length: Math.ceil(bytes / 4) }, (_, i) => i).buffer).subarray(0, bytes);

async function collected(source: AsyncIterable<Uint8Array>): Promise<{ all: Buffer; lengths: number[] }> {
  const pieces: Buffer[] = [];
  for await (const piece of source) pieces.push(Buffer.from(piece));
  return { all: Buffer.concat(pieces), lengths: pieces.map(({ length }) => length) };
}

describe("a file in pieces", () => {
  test.each([0, 1, PIECE_BYTES, 3 * PIECE_BYTES, 3 * PIECE_BYTES + 7])(
    "%i bytes come as they are",
    async (bytes) => {
      const path = join(scratch, `of-${bytes}`);
      writeFileSync(path, content(bytes));
      expect((await collected(filePieces(path))).all.equals(content(bytes))).toBe(true);
    },
  );
  test("a file that is not there is an error", async () => {
    await expect(collected(filePieces(join(scratch, "absent")))).rejects.toMatchObject({ code: "ENOENT" });
  });
  test("an aborted signal ends it", async () => {
    const path = join(scratch, "aborted");
    writeFileSync(path, content(4 * PIECE_BYTES));
    const stop = new AbortController();
    const pieces = filePieces(path, stop.signal);
    await pieces.next();
    stop.abort(new Error("no more"));
    await expect(pieces.next()).rejects.toThrow("no more");
  });
});

describe("small pieces put together", () => {
  async function* cut(bytes: Buffer, lengths: readonly number[]): AsyncGenerator<Buffer> {
    for (let at = 0, i = 0; at < bytes.length; at += lengths[i++ % lengths.length]!)
      yield bytes.subarray(at, at + lengths[i % lengths.length]!);
  }

  test.each([[[1000]], [[PIECE_BYTES]], [[PIECE_BYTES + 5]], [[3, 2 * PIECE_BYTES + 1]], [[0, 70_000]]])(
    "of %j bytes are the same content",
    async (lengths) => {
      const bytes = content(5 * PIECE_BYTES + 123);
      expect((await collected(inPieces(cut(bytes, lengths)))).all.equals(bytes)).toBe(true);
    },
  );
  test("are whole but for the last one", async () => {
    const { lengths } = await collected(inPieces(cut(content(2 * PIECE_BYTES + 5), [60_000])));
    expect(lengths).toEqual([PIECE_BYTES, PIECE_BYTES, 5]);
  });
  test("large ones pass as they are", async () => {
    const piece = content(PIECE_BYTES + 1);
    const first = await inPieces(cut(piece, [piece.length])).next();
    expect(first.value?.buffer).toBe(piece.buffer);
  });
});
