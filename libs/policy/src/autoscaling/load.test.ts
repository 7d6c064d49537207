import { describe, expect, test } from "vitest";
import {
  addSample,
  emptyLoadWindow,
  forgetGateways,
  type LoadSample,
  type LoadWindow,
  observeLoad,
} from "./index.ts";

const OPTIONS = { staleAfterMs: 1_000, forgetAfterMs: 10_000 };
const sample = (gatewayId: string, sampledAt: number, changes: Partial<LoadSample> = {}): LoadSample => ({
  gatewayId,
  sampledAt,
  inFlight: 2,
  queued: 1,
  arrivedTotal: sampledAt / 100,
  completedTotal: sampledAt / 200,
  ...changes,
});
const fill = (...samples: LoadSample[]): LoadWindow => samples.reduce(addSample, emptyLoadWindow);

describe("the load of a version", () => {
  test("is the sum over gateways, with rates between samples", () => {
    const window = fill(sample("a", 1_000), sample("b", 1_100), sample("a", 2_000), sample("b", 2_100));
    expect(observeLoad(2_200, window, OPTIONS)).toEqual({
      inFlight: 4,
      queued: 2,
      arrivedPerS: 20,
      completedPerS: 10,
      complete: true,
    });
  });
  test("ignores doubles and latecomers", () => {
    const window = fill(sample("a", 2_000));
    expect(addSample(window, sample("a", 2_000, { inFlight: 9 }))).toBe(window);
    expect(addSample(window, sample("a", 1_000, { inFlight: 9 }))).toBe(window);
  });
  test("is only a lower bound while a gateway is silent, and whole again when it is gone", () => {
    const window = fill(sample("a", 1_000), sample("b", 5_000));
    expect(observeLoad(5_100, window, OPTIONS)).toMatchObject({ inFlight: 2, complete: false });
    const later = addSample(window, sample("b", 12_000));
    expect(observeLoad(12_000, later, OPTIONS)).toMatchObject({ inFlight: 2, complete: true });
    expect(forgetGateways(12_000, later, OPTIONS).gateways).toHaveLength(1);
  });
  test("is unknown when nobody is heard", () => {
    expect(observeLoad(0, emptyLoadWindow, OPTIONS)).toBeNull();
    expect(observeLoad(5_000, fill(sample("a", 1_000)), OPTIONS)).toBeNull();
  });
  test("has no rates after one sample, or when a gateway has restarted", () => {
    expect(observeLoad(1_000, fill(sample("a", 1_000)), OPTIONS)).toMatchObject({ arrivedPerS: null });
    const restarted = fill(sample("a", 1_000), sample("a", 2_000, { arrivedTotal: 0, completedTotal: null }));
    expect(observeLoad(2_000, restarted, OPTIONS)).toMatchObject({ arrivedPerS: null, completedPerS: null });
  });
  test("is remembered within bounds", () => {
    let window = emptyLoadWindow;
    for (let i = 0; i < 1_000; i++) window = addSample(addSample(window, sample(`g${i}`, i)), sample("a", i));
    expect(window.gateways.length).toBeLessThanOrEqual(256);
    for (const { samples } of window.gateways) expect(samples.length).toBeLessThanOrEqual(32);
  });
});
