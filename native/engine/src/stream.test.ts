import { PlatformError } from "@pilotlight/errors";
import { expect, test } from "vitest";
import { ChunkStream } from "./stream.ts";
import type { GenerateChunk } from "./types.ts";

const chunk = (token: number, text: string): GenerateChunk => {
  return { tokenIds: [token], text, logprobs: null, finishReason: null, usage: null };
};

test("chunks that wait are merged, and read before the error behind them", async () => {
  const stream = new ChunkStream();
  stream.push(chunk(1, "a"));
  stream.push({ ...chunk(2, "b"), finishReason: "stop" });
  stream.fail(new PlatformError("unavailable", "gone"));
  expect(await stream.next()).toEqual({ ...chunk(1, "ab"), tokenIds: [1, 2], finishReason: "stop" });
  await expect(stream.next()).rejects.toMatchObject({ code: "unavailable" });
});

test("a waiting consumer gets the next chunk or the error", async () => {
  const stream = new ChunkStream();
  const next = stream.next();
  stream.push(chunk(3, "c"));
  expect(await next).toEqual(chunk(3, "c"));
  const failing = stream.next();
  stream.fail(new PlatformError("internal", "broken"));
  await expect(failing).rejects.toMatchObject({ code: "internal" });
});
