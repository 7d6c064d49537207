import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildTool } from "../links/build.mjs";

const isRoot = process.geteuid?.() === 0;
const NOBODY = 65534;
let folder: string;
let tool: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "own-network-"));
  await chmod(folder, 0o755);
  tool = join(folder, "own-network");
  await copyFile(await buildTool("own-network"), tool);
  await chmod(tool, 0o755);
}, 600_000);
afterAll(() => rm(folder, { recursive: true }));

/** What a shell says of the network that it was given. */
async function look(
  uid?: number,
): Promise<{ told: string; interfaces: string[]; congestionControl: string }> {
  const script =
    'echo "$PILOTLIGHT_BENCH_NETWORK"; cat /proc/sys/net/ipv4/tcp_congestion_control /proc/net/dev';
  const child = spawn(tool, ["sh", "-c", script], {
    stdio: ["ignore", "pipe", "inherit"],
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  const [output] = await Promise.all([text(child.stdout), once(child, "exit")]);
  const [told = "", congestionControl = "", , , ...devices] = output.trim().split("\n");
  return { told, congestionControl, interfaces: devices.map((line) => line.split(":")[0]?.trim() ?? "") };
}

test.runIf(isRoot)("a program gets a network with nothing but loopback, without pacing", async () => {
  const { told, interfaces, congestionControl } = await look();
  expect(told).toBe("its own, cubic");
  expect(congestionControl).toBe("cubic");
  expect(interfaces).toContain("lo");
  expect(interfaces).not.toContain("eth0");
});

test("where the kernel refuses, it runs in the machine's network and is told so", async () => {
  const { told, congestionControl } = await look(isRoot ? NOBODY : undefined);
  expect(told).toMatch(/^the machine's, \w+: .*(not permitted|denied)/);
  expect(told).toContain(congestionControl);
});
