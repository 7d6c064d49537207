import { expect, test } from "vitest";
import { run } from "./bench.ts";

test("the benchmark goes through everything in its smallest form", { timeout: 170_000 }, async () => {
  const { figures, notes } = await run({ smoke: true });
  for (const key of [
    "convert_mb_s",
    "local_seq_read_ratio",
    "bytes_fetched_20_mounts_ratio",
    "mass_start_bucket_ratio",
  ])
    expect(figures[`image.${key}`], key).toBeGreaterThan(0);
  expect(notes["image.speedup_containerd_tiny_eks"]).toContain("Pilotlight");
});
