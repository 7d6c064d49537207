// What killed runs left: found by their folders, whose names say which process they belong to, and by the mark that every process of
// a run has in its environment.
import { readFileSync } from "node:fs";
import { lstat, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runCommand } from "@pilotlight/servers";
import { unlimit } from "../image/disk.ts";

/** In the environment of a run and of all that it starts: its folder. */
export const RUN_MARK = "PILOTLIGHT_BENCH_RUN";
/** Where runs have folders, under one name. */
export const FOLDERS_IN: readonly string[] = [tmpdir(), "/dev/shm"];

/** Daemons that are told to end take away what they made. */
const END_GRACE_MS = 10_000;
const KILL_ROUNDS_MAX = 50;
const LOOK_INTERVAL_MS = 100;
/** Where somebody is or was, which says nothing of whose a process is. */
const NO_MARKS = new Set(["PWD", "OLDPWD"]);

/** What folders of this process are called, before something random. */
export const nameOf = (prefix: string): string => `${prefix}${process.pid}-${startTimeOf(process.pid)}-`;

/** Takes away what runs left that were killed. A run that is still there keeps its own. */
export async function removeLeftovers(prefix: string): Promise<void> {
  for (const parent of FOLDERS_IN)
    for (const name of await readdir(parent)) {
      const [, pid, startTime] = /^(\d+)-(\d+)-\w+$/.exec(name.slice(prefix.length)) ?? [];
      if (!name.startsWith(prefix) || startTime === undefined || startTimeOf(Number(pid)) === startTime)
        continue;
      const folder = join(parent, name);
      const { uid } = await lstat(folder).catch(() => ({ uid: undefined }));
      if (uid === process.geteuid?.()) await removeFolder(folder);
    }
}

/** Ends the processes of a run's folder, then takes away mounts, limits, loop devices and files. */
export async function removeFolder(folder: string): Promise<void> {
  await endProcesses(folder);
  const table = await readFile("/proc/self/mountinfo", "utf8");
  const mounts = table.split("\n").map((line) => line.split(" ")[4] ?? "");
  for (const mount of mounts.filter((path) => isIn(folder, path)).reverse())
    await runCommand("umount", ["--lazy", mount]).catch(() => undefined);
  const loops = await runCommand("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).catch(
    () => "",
  );
  for (const line of loops.split("\n")) {
    const [device = "", file = ""] = line.trim().split(/\s+/);
    if (!isIn(folder, file)) continue;
    await unlimit(device).catch(() => undefined);
    await runCommand("losetup", ["-d", device]).catch(() => undefined);
  }
  await rm(folder, { recursive: true, force: true });
}

const isIn = (folder: string, path: string): boolean => path === folder || path.startsWith(`${folder}/`);

/** proc_pid_stat(5), field 22; empty: there is no such process. */
function startTimeOf(pid: number): string {
  try {
    const [, rest = ""] = readFileSync(`/proc/${pid}/stat`, "utf8").split(/.*\) /s);
    return rest.split(" ")[19] ?? "";
  } catch {
    return "";
  }
}

async function endProcesses(folder: string): Promise<void> {
  for (const pid of await processesOf(folder)) send(pid, "SIGTERM");
  for (let waitedMs = 0; waitedMs < END_GRACE_MS; waitedMs += LOOK_INTERVAL_MS) {
    if ((await processesOf(folder)).length === 0) return;
    await sleep(LOOK_INTERVAL_MS);
  }
  // Some look after each other: stopped first, none starts another one.
  for (let round = 0; round < KILL_ROUNDS_MAX; round++) {
    const pids = await processesOf(folder);
    if (pids.length === 0) return;
    for (const signal of ["SIGSTOP", "SIGKILL"] as const) for (const pid of pids) send(pid, signal);
    await sleep(LOOK_INTERVAL_MS);
  }
}

/** Processes whose command line or own variables name the folder or something in it; not this one. */
async function processesOf(folder: string): Promise<number[]> {
  const all = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    all.map(async (pid) => (pid !== process.pid && (await isOf(folder, pid)) ? [pid] : [])),
  );
  return found.flat();
}

async function isOf(folder: string, pid: number): Promise<boolean> {
  const read = (name: string) => readFile(`/proc/${pid}/${name}`, "utf8").catch(() => "");
  const [commandLine, environment] = await Promise.all([read("cmdline"), read("environ")]);
  return (
    commandLine.includes(`${folder}/`) ||
    environment.split("\0").some((variable) => {
      const at = variable.indexOf("=");
      return isIn(folder, variable.slice(at + 1)) && !NO_MARKS.has(variable.slice(0, at));
    })
  );
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}
