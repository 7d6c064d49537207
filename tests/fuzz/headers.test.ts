import { expect, test } from "vitest";
import { fuzzHeaders } from "./headers.ts";

const CASES = 4_000;

test.each([1, 2])(
  "safetensors headers are read as the reference library reads them (seed %i)",
  async (seed) => {
    const { accepted, stricter } = await fuzzHeaders(seed, (cases) => cases === CASES);
    expect(accepted).toBeGreaterThan(CASES / 20);
    expect(stricter).toBeLessThan(CASES / 5);
  },
  300_000,
);
