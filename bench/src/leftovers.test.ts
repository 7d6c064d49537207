// Runs that are killed, as processes of their own.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { runCommand } from "@pilotlight/servers";
import { afterEach, expect, test } from "vitest";
import { removeLeftovers } from "./leftovers.ts";

const PREFIX = `bench-leftovers-${process.pid}-`;
/** A run that has started this. */
const programWith = (command: string): string => `
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { inFolders } from ${JSON.stringify(new URL("folders.ts", import.meta.url).href)};
await inFolders(${JSON.stringify(PREFIX)}, async () => {}, async ({ scratch, memory }) => {
  const { pid } = spawn("sh", ["-c", ${JSON.stringify(command)}], { detached: true, stdio: "ignore" });
  if (process.geteuid() === 0) {
    mkdirSync(memory + "/node");
    execFileSync("mount", ["-t", "tmpfs", "leftovers-test", memory + "/node"]);
    execFileSync("fallocate", ["-l", "1048576", scratch + "/disk.img"]);
    execFileSync("losetup", ["--find", scratch + "/disk.img"]);
  }
  console.log(JSON.stringify({ scratch, memory, pid }));
  await new Promise(() => setInterval(() => {}, 1000));
});`;

type Run = { child: ChildProcess; scratch: string; memory: string; pid: number };
const runs: Run[] = [];

async function start(command = "exec sleep 1000"): Promise<Run> {
  const args = ["--input-type=module", "--eval", programWith(command)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const run = { child, ...(JSON.parse(line) as Omit<Run, "child">) };
  runs.push(run);
  return run;
}
async function kill({ child }: Run, signal: NodeJS.Signals): Promise<void> {
  const ended = once(child, "exit");
  child.kill(signal);
  await ended;
}
afterEach(async () => {
  for (const run of runs.splice(0))
    if (run.child.exitCode === null && run.child.signalCode === null) await kill(run, "SIGKILL");
  await removeLeftovers(PREFIX);
});

const lives = (pid: number): boolean => {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};
/** What is there of a run. */
const remains = async ({ scratch, memory, pid }: Run) => ({
  folders: [scratch, memory].filter(existsSync),
  process: lives(pid),
  mounts: readFileSync("/proc/self/mountinfo", "utf8").includes(memory),
  devices: (await runCommand("losetup", ["--list"]).catch(() => "")).includes(scratch),
});
const NOTHING = { folders: [], process: false, mounts: false, devices: false };
const isRoot = process.geteuid?.() === 0;

test("what a killed run left is taken away by the next one, also what does not want to end", async () => {
  const run = await start("trap '' TERM; while :; do sleep 1; done");
  await kill(run, "SIGKILL");
  expect(await remains(run)).toEqual({
    folders: [run.scratch, run.memory],
    process: true,
    mounts: isRoot,
    devices: isRoot,
  });
  await removeLeftovers(PREFIX);
  expect(await remains(run)).toEqual(NOTHING);
});

test("a run that is told to end leaves nothing", async () => {
  const run = await start();
  await kill(run, "SIGTERM");
  expect(await remains(run)).toEqual(NOTHING);
});

test("a run that is there keeps what it has", async () => {
  const run = await start();
  const before = await remains(run);
  await removeLeftovers(PREFIX);
  expect(await remains(run)).toEqual(before);
});
