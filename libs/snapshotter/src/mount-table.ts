// The mounts that this process sees (proc_pid_mountinfo(5)).
import { readFile } from "node:fs/promises";

/** Mount points, as paths. */
export async function mountPoints(): Promise<Set<string>> {
  const table = await readFile("/proc/self/mountinfo", "utf8");
  const points = table.split("\n").map((line) => line.split(" ")[4] ?? "");
  return new Set(points.map(pathOf));
}

/** Space, tab, newline and backslash are written as \ooo. */
const pathOf = (path: string) =>
  path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
