// What this machine has: memory within the limits of the cgroup that the agent runs in, accelerators by their device nodes.
import { readdirSync, readFileSync } from "node:fs";

export type Capacity = {
  memoryMib: number;
  /** NVIDIA devices; 0 on a machine without. */
  nvidiaDevices: number;
};

const MIB = 1024 * 1024;
/** Where a container's own memory limit stands: cgroup v2, then v1 (kernel's cgroup documentation). */
const LIMIT_FILES = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/** Looks at the machine. */
export function detectCapacity(): Capacity {
  const total = /^MemTotal:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "latin1"))?.[1] ?? "0";
  const limits = [Number(total) * 1024];
  for (const file of LIMIT_FILES) {
    const limit = Number(readOrEmpty(file)); // "max" and an absent file are no number, or zero
    if (limit > 0) limits.push(limit);
  }
  return {
    memoryMib: Math.floor(Math.min(...limits) / MIB),
    nvidiaDevices: readdirSync("/dev").filter((name) => /^nvidia\d+$/.test(name)).length,
  };
}

function readOrEmpty(file: string): string {
  try {
    return readFileSync(file, "latin1").trim();
  } catch {
    return "";
  }
}
