import { expect, test } from "vitest";
import { run } from "./bench.ts";

test("every figure is measured, or null with the reason", { timeout: 1_200_000 }, async () => {
  const { targets, figures, notes } = await run({ smoke: true });
  for (const key of Object.keys(targets)) {
    if (figures[key] === null) expect(notes[key]).toMatch(/^not measured: /);
    else expect(figures[key], key).toBeGreaterThan(0);
  }
});
