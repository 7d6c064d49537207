// The disk of the whole platform runs full under load and is freed again. Needs root: the disk is a small tmpfs.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmdirSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHAT_MODEL, startLoad } from "@pilotlight/local";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startTestPlatform, type TestPlatform } from "../e2e/platform.ts";

const isRoot = process.getuid?.() === 0;
const DISK_MB = 2_000;
const FULL_MS = 15_000;

let disk: string;
let running: TestPlatform | undefined;

beforeAll(async () => {
  if (!isRoot) return;
  disk = mkdtempSync(join(tmpdir(), "pilotlight-disk-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${DISK_MB}m,mode=755`, "tmpfs", disk]);
  running = await startTestPlatform("directory", disk);
  await running.demo.deploy();
}, 300_000);
afterAll(async () => {
  if (!isRoot) return;
  await running?.stop();
  execFileSync("umount", ["--lazy", disk]);
  rmdirSync(disk);
});

test.skipIf(!isRoot)(
  "while the disk is full requests are answered; once it has room again, everything goes on",
  async () => {
    if (running === undefined) throw new Error("no platform");
    const { demo, platform } = running;
    const load = startLoad(platform.endpoints.gatewayUrl, { model: CHAT_MODEL, clients: 2, maxTokens: 12 });
    const filler = join(disk, "filler");
    try {
      fill(filler);
      await new Promise((resolve) => setTimeout(resolve, FULL_MS));
      expect(statfsSync(disk).bavail, "something freed the disk").toBeLessThan(1_000);
    } finally {
      rmSync(filler, { force: true });
      await load.stop();
    }
    const report = load.report();
    expect(report.failures).toEqual([]);
    expect(report.requests).toBeGreaterThan(0);
    const { forward, back } = await demo.replace();
    expect([...forward.failures, ...back.failures]).toEqual([]);
  },
  400_000,
);

/** Writes until nothing more fits. */
function fill(path: string): void {
  const block = Buffer.alloc(64 * 1024);
  try {
    for (;;) writeFileSync(path, block, { flag: "a" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  }
}
