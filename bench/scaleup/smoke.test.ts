import { expect, test } from "vitest";
import { run } from "./bench.ts";

test("the benchmark goes through everything in its smallest form", { timeout: 170_000 }, async () => {
  const { figures, notes } = await run({ smoke: true, parts: ["7b", "70b"] });
  expect(figures["scaleup.over_floor"]).toBeGreaterThan(0);
  for (const part of ["7b", "70b"]) expect(notes[`scaleup.speedup_${part}`]).toContain("Pilotlight");
});
