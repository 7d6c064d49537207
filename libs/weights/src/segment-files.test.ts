import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openSegmentFiles } from "./segment-files.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-segments-"));
});
afterEach(() => rm(folder, { recursive: true }));

const options = () => ({
  memory: { directory: join(folder, "memory"), bytesMax: 1000 },
  disk: { directory: join(folder, "disk"), bytesMax: 1000 },
  reserveBytes: 0,
});

/** Another process that owns the directories, has a segment, and waits to be killed. */
async function startOwner() {
  const script = `
    import { openSegmentFiles } from ${JSON.stringify(new URL("./segment-files.ts", import.meta.url).href)};
    import { writeFileSync } from "node:fs";
    openSegmentFiles(${JSON.stringify(options())});
    writeFileSync(${JSON.stringify(join(folder, "memory", "weights-1"))}, "bytes");
    console.log("ready");
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  return child;
}

test("while another process owns the directories they are refused; once it is killed they are taken and swept", async () => {
  const owner = await startOwner();
  const exit = new Promise((resolve) => owner.once("exit", resolve));
  try {
    expect(() => openSegmentFiles(options())).toThrow(expect.objectContaining({ code: "alreadyExists" }));
    expect(existsSync(join(folder, "memory", "weights-1"))).toBe(true);
  } finally {
    owner.kill("SIGKILL");
    await exit;
  }
  const segments = openSegmentFiles(options());
  expect(existsSync(join(folder, "memory", "weights-1"))).toBe(false);
  segments.close();
});
