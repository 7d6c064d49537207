import { expect, test } from "vitest";
import { wallClock } from "./wall-clock.ts";

test("time is finer than the system's clock and follows it when it is set", () => {
  let [system, monotonic] = [1_000, 0];
  const now = wallClock({ systemMs: () => system, monotonicMs: () => monotonic, originMs: 1_000.25 });
  expect(now()).toBe(1_000_250_000n);
  monotonic = 0.5;
  expect(now()).toBe(1_000_750_000n);
  // The system's clock was set forward, then back.
  system = 5_000;
  expect(now()).toBe(5_000_000_000n);
  monotonic = 0.75;
  expect(now()).toBe(5_000_250_000n);
  system = 2_000;
  const back = now();
  expect(back).toBeGreaterThanOrEqual(2_000_000_000n);
  expect(back).toBeLessThan(2_001_000_000n);
});
