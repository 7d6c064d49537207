import { expect, test } from "vitest";
import { run } from "./bench.ts";

test("the benchmark goes through everything in its smallest form", { timeout: 170_000 }, async () => {
  const { figures } = await run({ smoke: true });
  // The peers' packages are gigabytes: what compares with them is not measured here.
  for (const key of [
    "link_share_1g",
    "link_share_10g",
    "limit_share_unlimited",
    "cores_per_gb_s",
    "tp4_wire_ratio",
    "relay8_time_ratio",
    "relay8_bucket_ratio",
  ])
    expect(figures[`weights.${key}`], key).toBeGreaterThan(0);
});
