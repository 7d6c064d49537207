import { describe, expect, test } from "vitest";
import { backoffMs, PlatformError, retry, toPlatformError } from "./index.ts";

const POLICY = { attemptsMax: 4, initialDelayMs: 100, delayMsMax: 250 };
const waits: number[] = [];
const sleep = async (ms: number) => void waits.push(ms);

describe("PlatformError", () => {
  test("the cause stays inside the process", () => {
    const error = new PlatformError("corrupt", "chunk 4 differs", {
      remedy: "Run verify.",
      cause: new Error("secret"),
    });
    expect(JSON.stringify(error)).toBe(
      '{"code":"corrupt","message":"chunk 4 differs","remedy":"Run verify."}',
    );
  });
  test("a system error keeps its meaning however deep it is wrapped", () => {
    const inner = Object.assign(new Error("write"), { code: "ENOSPC" });
    const wrapped = new Error("cannot store", { cause: new Error("flush", { cause: inner }) });
    expect(toPlatformError(wrapped)).toMatchObject({ code: "resourceExhausted", message: "cannot store" });
  });
  test("an abort is cancelled, anything unknown is internal", () => {
    expect(toPlatformError(new DOMException("stop", "AbortError")).code).toBe("cancelled");
    expect(toPlatformError("boom")).toMatchObject({ code: "internal", message: "boom" });
  });
});

describe("retry", () => {
  test("waits grow to their limit and respect retryAfterMs", async () => {
    waits.length = 0;
    const failures = [undefined, undefined, 900];
    const result = await retry(
      async (attempt) => {
        if (attempt > failures.length) return attempt;
        const retryAfterMs = failures[attempt - 1];
        throw new PlatformError("unavailable", "down", retryAfterMs === undefined ? {} : { retryAfterMs });
      },
      POLICY,
      { random: () => 1, sleep },
    );
    expect(result).toBe(4);
    expect(waits).toEqual([100, 200, 900]);
  });
  test("a terminal failure is not repeated", async () => {
    let attempts = 0;
    const failing = retry(
      async () => {
        attempts++;
        throw new PlatformError("notFound", "no such image");
      },
      POLICY,
      { sleep },
    );
    await expect(failing).rejects.toMatchObject({ code: "notFound" });
    expect(attempts).toBe(1);
  });
  test("gives up after attemptsMax with the last error", async () => {
    let attempts = 0;
    const failing = retry(
      async () => Promise.reject(new PlatformError("unavailable", `try ${++attempts}`)),
      POLICY,
      { sleep },
    );
    await expect(failing).rejects.toThrow("try 4");
  });
  test("jitter keeps at least half of the delay", () => {
    expect(backoffMs(POLICY, 1, 0)).toBe(50);
    expect(backoffMs(POLICY, 9, 0)).toBe(125);
  });
});
