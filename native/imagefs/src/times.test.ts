import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { openImagefs } from "./index.ts";

const cacheDir = mkdtempSync(join(tmpdir(), "imagefs-times-"));
const patient = openImagefs({ cacheDir });
afterAll(async () => {
  await patient.stop();
  rmSync(cacheDir, { recursive: true });
});

test("a start that takes longer than it may is said, and who waits longer finds the processes", async (context) => {
  if (patient.binary === undefined) return context.skip("the imagefs program is not built");
  const hasty = openImagefs({ cacheDir, times: { startTimeoutMs: 0 } });
  await expect(hasty.ready()).rejects.toMatchObject({ code: "unavailable" });
  await hasty.close();
  await patient.ready();
  expect(await patient.stats()).toMatchObject({ images: [] });
});
