// The processes of a cache directory, found by their command lines: tests kill them.
import { readdirSync, readFileSync } from "node:fs";

/** Living processes of a cache directory, of all roles or of one: "serve", "handler" or "keeper". */
export function processes(cacheDir: string, role?: string): number[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      const line = commandLine(pid);
      return (
        /imagefs|\/proc\/self\/exe/.test(line) &&
        line.includes(`--cache ${cacheDir} `) &&
        (role === undefined || line.includes(` ${role} `))
      );
    })
    .map(Number);
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}
