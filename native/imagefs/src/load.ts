// What a node does while a container starts: bytes to and from the disk under its cache, and processor time, as the kernel counts
// them for the whole machine. Beside the bytes that came over the link they say what held a start up.
import { readFile, stat } from "node:fs/promises";
import { availableParallelism } from "node:os";

export type NodeLoad = {
  durationMs: number;
  /** Of the block device under the cache; undefined where there is none (memory, network). */
  diskReadBytes: number | undefined;
  diskWrittenBytes: number | undefined;
  /** Time in which the device had anything to do. */
  diskBusyMs: number | undefined;
  /** Processor time of the machine, all cores together. */
  cpuMs: number;
  cores: number;
};

export type LoadWatch = { soFar(): Promise<NodeLoad> };

const SECTOR_BYTES = 512;
/** Of /proc, on every Linux. */
const MS_PER_TICK = 10;

type Counters = {
  at: number;
  cpuMs: number;
  disk: { read: number; written: number; busyMs: number } | undefined;
};

/** Counts from now on. `directory` says which disk is meant. */
export async function watchLoad(directory: string): Promise<LoadWatch> {
  const device = await deviceOf(directory);
  const before = await counters(device);
  return {
    async soFar() {
      const now = await counters(device);
      const since = (of: (disk: NonNullable<Counters["disk"]>) => number) =>
        now.disk === undefined || before.disk === undefined ? undefined : of(now.disk) - of(before.disk);
      return {
        durationMs: now.at - before.at,
        diskReadBytes: since((disk) => disk.read),
        diskWrittenBytes: since((disk) => disk.written),
        diskBusyMs: since((disk) => disk.busyMs),
        cpuMs: now.cpuMs - before.cpuMs,
        cores: availableParallelism(),
      };
    },
  };
}

/** `major:minor`, taken apart as glibc's makedev(3) puts them together. */
async function deviceOf(directory: string): Promise<string> {
  const dev = BigInt((await stat(directory, { bigint: true })).dev);
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  return `${major}:${minor}`;
}

async function counters(device: string): Promise<Counters> {
  const [cpu, disk] = await Promise.all([
    readFile("/proc/stat", "utf8").catch(() => ""),
    readFile(`/sys/dev/block/${device}/stat`, "utf8").catch(() => undefined),
  ]);
  // user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = numbers(
    cpu.split("\n")[0]?.slice(4) ?? "",
  );
  // Documentation/block/stat.rst: sectors read and written, milliseconds busy.
  const fields = disk === undefined ? undefined : numbers(disk);
  return {
    at: performance.now(),
    cpuMs: (user + nice + system + irq + softirq) * MS_PER_TICK,
    disk: fields && {
      read: (fields[2] ?? 0) * SECTOR_BYTES,
      written: (fields[6] ?? 0) * SECTOR_BYTES,
      busyMs: fields[9] ?? 0,
    },
  };
}

const numbers = (text: string): number[] => text.trim().split(/\s+/).map(Number);
