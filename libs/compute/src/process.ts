// Processes of the host, as /proc shows them. A pid is used again, so a process is identified by pid, start time and
// boot; a zombie counts as ended, because nobody may be there to reap it.
import { readdirSync, readFileSync } from "node:fs";

/** What a process is known by after whoever started it is gone. Fit for a file. */
export type ProcessIdentity = {
  pid: number;
  /** Start time in clock ticks since boot (field 22 of /proc/PID/stat, proc_pid_stat(5)). */
  startTicks: number;
  /** The boot that the ticks count from. */
  bootId: string;
};

type Stat = { state: string; group: number; session: number; startTicks: number };

/** Parses /proc/PID/stat. The name stands in parentheses and may hold anything, so fields are counted after the last. */
function readStat(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const at = (field: number) => fields[field - 3] ?? "";
    return { state: at(3), group: Number(at(5)), session: Number(at(6)), startTicks: Number(at(22)) };
  } catch {
    return undefined;
  }
}

let bootId: string | undefined;

function currentBootId(): string {
  bootId ??= readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
  return bootId;
}

const ENDED = new Set(["Z", "X", "x"]);

/** The identity of a running process. */
export function identify(pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid);
  if (stat === undefined || ENDED.has(stat.state)) return undefined;
  return { pid, startTicks: stat.startTicks, bootId: currentBootId() };
}

/** Whether that very process still runs. */
export function isRunning(identity: ProcessIdentity): boolean {
  const now = identify(identity.pid);
  return now !== undefined && now.startTicks === identity.startTicks && now.bootId === identity.bootId;
}

/** The variable that every process of a place carries: the place's folder. */
export const PLACE_VARIABLE = "PILOTLIGHT_PLACE";

/** Processes that carry the mark of the place with this folder, oldest first: its process, and what that one started. */
export function processesOf(folder: string): { identity: ProcessIdentity; leader: boolean }[] {
  const needle = Buffer.from(`${PLACE_VARIABLE}=${folder}\0`);
  const found: { identity: ProcessIdentity; leader: boolean }[] = [];
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      if (!readFileSync(`/proc/${pid}/environ`).includes(needle)) continue;
    } catch {
      continue; // gone meanwhile, or another user's
    }
    const identity = identify(pid);
    if (identity !== undefined) found.push({ identity, leader: readStat(pid)?.session === pid });
  }
  return found.sort((a, b) => a.identity.startTicks - b.identity.startTicks);
}

/** Signals a process group, or one process; what is gone already is no error. */
export function signalProcess(target: number, signal: NodeJS.Signals): void {
  try {
    process.kill(target, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
