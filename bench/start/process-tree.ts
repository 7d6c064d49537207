// What a process and everything that came of it uses, from /proc: resident memory and CPU time.
import { readdirSync, readFileSync } from "node:fs";

export type Usage = { name: string; pid: number; rssMb: number; cpuS: number };

/** Clock ticks a second: USER_HZ, 100 on every Linux (man 7 time). */
const TICKS_PER_SECOND = 100;
const PAGE_BYTES = 4096;

type Stat = { pid: number; parent: number; name: string; cpuTicks: number; rssPages: number };

function statOf(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const close = text.lastIndexOf(")");
    const fields = text.slice(close + 2).split(" ");
    // Fields 14 and 15 (user and system time) and 24 (resident pages) of proc(5), counted from field 3 here.
    return {
      pid,
      name: programOf(pid) ?? text.slice(text.indexOf("(") + 1, close),
      parent: Number(fields[1]),
      cpuTicks: Number(fields[11]) + Number(fields[12]),
      rssPages: Number(fields[21]),
    };
  } catch {
    return undefined;
  }
}

/** What a person would call it: of Node the script and its folder, e.g. `gateway/dist/main.js`. */
function programOf(pid: number): string | undefined {
  const script = readFileSync(`/proc/${pid}/cmdline`, "utf8")
    .split("\0")
    .find((argument) => /\.(js|mjs|ts)$/.test(argument));
  return script?.split("/").slice(-3).join("/");
}

/** Every living descendant of `root`, itself included. Processes whose parent died are found by `also`. */
export function usageOfTree(root: number, also: readonly number[]): Usage[] {
  const stats = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => statOf(Number(name)) ?? []);
  const wanted = new Set([root, ...also]);
  for (let grown = true; grown; ) {
    grown = false;
    for (const { pid, parent } of stats) {
      if (wanted.has(parent) && !wanted.has(pid)) {
        wanted.add(pid);
        grown = true;
      }
    }
  }
  return stats
    .filter(({ pid }) => wanted.has(pid))
    .map(({ pid, name, cpuTicks, rssPages }) => ({
      pid,
      name,
      rssMb: (rssPages * PAGE_BYTES) / 1e6,
      cpuS: cpuTicks / TICKS_PER_SECOND,
    }));
}
