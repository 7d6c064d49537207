// What killed runs left: found by their directories, which name the process that they belong to.
import { readFileSync } from "node:fs";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runCommand } from "@pilotlight/servers";

const END_ROUNDS_MAX = 50;
const END_INTERVAL_MS = 100;

/**
 * Takes away what benchmarks left that were killed: processes that run in their directories, mounts, limits, loop devices, files.
 * A benchmark that runs still keeps its own: its directory names a process that is there.
 */
export async function removeLeftovers(prefix: string): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const directory = join(tmpdir(), name);
    if (!name.startsWith(prefix) || (await ownerLives(directory))) continue;
    await endProcesses(directory);
    const table = await readFile("/proc/self/mountinfo", "utf8");
    const mounts = table.split("\n").map((line) => line.split(" ")[4] ?? "");
    for (const mount of mounts.filter((path) => path.startsWith(`${directory}/`)).reverse())
      await runCommand("umount", ["--lazy", mount]).catch(() => undefined);
    const loops = await runCommand("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).catch(
      () => "",
    );
    for (const line of loops.split("\n").filter((line) => line.includes(`${directory}/`)))
      await runCommand("losetup", ["-d", line.trim().split(/\s+/)[0] ?? ""]).catch(() => undefined);
    await rm(directory, { recursive: true, force: true });
  }
}

const OWNER_FILE = "owner";

/** Marks a directory as this process's. */
export const own = (directory: string): Promise<void> =>
  writeFile(join(directory, OWNER_FILE), `${process.pid} ${startTimeOf(process.pid)}`);

async function ownerLives(directory: string): Promise<boolean> {
  const text = await readFile(join(directory, OWNER_FILE), "utf8").catch(() => "");
  const [pid = "", startTime = ""] = text.split(" ");
  return pid !== "" && startTimeOf(Number(pid)) === startTime;
}

/** proc_pid_stat(5), field 22; empty: there is no such process. */
function startTimeOf(pid: number): string {
  try {
    const [, rest = ""] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
    return rest.split(" ")[19] ?? "";
  } catch {
    return "";
  }
}

/** Processes whose command line names something in a directory. */
async function processesIn(directory: string): Promise<number[]> {
  const all = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    all.map(async (pid) => {
      const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
      return pid !== process.pid && commandLine.includes(`${directory}/`) ? [pid] : [];
    }),
  );
  return found.flat();
}

/** Some look after each other: stopped first, none starts another one. */
async function endProcesses(directory: string): Promise<void> {
  for (let round = 0; round < END_ROUNDS_MAX; round++) {
    const pids = await processesIn(directory);
    if (pids.length === 0) return;
    for (const signal of ["SIGSTOP", "SIGKILL"] as const) for (const pid of pids) send(pid, signal);
    await sleep(END_INTERVAL_MS);
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}
