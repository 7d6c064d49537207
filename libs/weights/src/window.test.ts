import { describe, expect, test } from "vitest";
import { arrived, refused, startWindow, type Window } from "./window.ts";

const BYTES = 8 << 20;

/** Plays a store whose throughput with n ranges in flight is `rate(n)` bytes per ms, for this long. */
function play(window: Window, rate: (size: number) => number, durationMs: number, from = 0): Window {
  let now = from;
  let state = window;
  while (now < from + durationMs) {
    now += BYTES / rate(state.size);
    state = arrived(state, BYTES, now);
  }
  return state;
}

describe("the window", () => {
  test("grows to where a store that gives each connection its own share stops giving more", () => {
    const perConnection = 80_000;
    const link = 40 * perConnection;
    const window = play(
      startWindow({ initial: 8, max: 128 }),
      (n) => Math.min(n * perConnection, link),
      5_000,
    );
    expect(window.size).toBeGreaterThanOrEqual(36);
    expect(window.size).toBeLessThanOrEqual(70);
  });
  test("stays where it began when more brings nothing", () => {
    const window = play(startWindow({ initial: 16, max: 64 }), () => 1_000_000, 900);
    expect(window.size).toBe(16);
  });
  test("does not take a slow beginning for a slow store", () => {
    const window = startWindow({ initial: 16, max: 64 });
    expect(play(arrived(window, BYTES, 700), () => 1_000_000, 900, 700).size).toBe(16);
  });
  test("never exceeds its limit", () => {
    expect(play(startWindow({ initial: 8, max: 20 }), (n) => n * 100_000, 5_000).size).toBe(20);
    expect(startWindow({ initial: 16, max: 4 }).size).toBe(4);
  });
  test("halves when the far side asks for less, once for what was in flight", () => {
    let window = startWindow({ initial: 16, max: 64 });
    for (const now of [10, 11, 12]) window = refused(window, now);
    expect(window.size).toBe(8);
    for (let i = 0; i < 20; i++) window = refused(window, 1_000 * (i + 1));
    expect(window.size).toBe(1);
  });
});
