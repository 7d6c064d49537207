import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { HedgePolicy, hedged } from "./hedge.ts";

const LIMITS = { hedgeShareMax: 0.05, hedgeAfterMsMin: 250 };
const never = AbortSignal.any([]);
const primed = (): HedgePolicy => {
  const policy = new HedgePolicy(LIMITS);
  for (let i = 0; i < 8; i++) policy.finished(1);
  return policy;
};
/** Ends after this long, or fails when stopped. */
const taking = (ms: number) => {
  const contender = {
    stopped: false,
    async run(signal: AbortSignal) {
      await sleep(ms, undefined, { signal }).catch((error) => {
        contender.stopped = true;
        throw error;
      });
    },
  };
  return contender;
};
const failing = (message: string) => ({
  run: () => sleep(400).then(() => Promise.reject(new Error(message))),
});

describe("hedging", () => {
  test("a range that is in time is asked for once", async () => {
    const first = taking(0);
    const winner = await hedged(primed(), first, () => expect.unreachable(), never);
    expect(winner).toBe(first);
  });
  test("a slow one is overtaken, and has ended when the winner is told", async () => {
    const first = taking(60_000);
    const second = taking(1);
    expect(await hedged(primed(), first, () => second, never)).toBe(second);
    expect(first.stopped).toBe(true);
  });
  test("the second's failure harms nothing; both failing is the first's failure", async () => {
    const first = taking(800);
    expect(await hedged(primed(), first, () => failing("second"), never)).toBe(first);
    await expect(hedged(primed(), failing("first"), () => failing("second"), never)).rejects.toThrow("first");
  });
  test("nothing is slow while little is known, and the budget is a small share", () => {
    const policy = new HedgePolicy(LIMITS);
    expect(policy.slowAfterMs()).toBe(Number.POSITIVE_INFINITY);
    for (let i = 0; i < 100; i++) policy.finished(1_000);
    expect(policy.slowAfterMs()).toBe(4_000);
    let allowed = 0;
    while (policy.mayHedge()) allowed += 1;
    expect(allowed).toBe(7);
    expect(new HedgePolicy({ ...LIMITS, hedgeShareMax: 0 }).mayHedge()).toBe(false);
  });
});
