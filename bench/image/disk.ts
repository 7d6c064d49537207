// The node's disk: a plain directory, or an ext4 file system on a loop device whose reads and writes, buffered ones too, are held
// to the rate of a cloud volume by the v1 blkio throttle of the root group. What is to be limited has to stay in that group.
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { appendFile, mkdir, readFile, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runCommand } from "@pilotlight/servers";

export type DiskLimits = { bytesPerSecond: number; operationsPerSecond: number };
export type Disk = { directory: string; destroy(): Promise<void> };

const CHILDREN_END_MS = 10_000;
const BLKIO = "/sys/fs/cgroup/blkio";

/** Whether this machine can limit a disk; otherwise why not. */
export function cannotLimit(): string | undefined {
  if (process.geteuid?.() !== 0) return "needs root";
  if (!existsSync(join(BLKIO, "blkio.throttle.write_bps_device"))) return "no cgroup v1 blkio throttle here";
  return undefined;
}

export async function makeDisk(
  scratch: string,
  limits: DiskLimits | undefined,
  bytes: number,
): Promise<Disk> {
  const directory = join(scratch, "disk");
  await mkdir(directory);
  if (limits === undefined)
    return { directory, destroy: () => rm(directory, { recursive: true, force: true }) };
  const image = join(scratch, "disk.img");
  await runCommand("fallocate", ["-l", String(bytes), image]);
  const device = (await runCommand("losetup", ["--find", "--show", "--direct-io=on", image])).trim();
  const name = device.replace("/dev/", "");
  // A cloud volume counts operations of 256 KiB at most.
  await writeFile(`/sys/block/${name}/queue/max_sectors_kb`, "256");
  await runCommand("mkfs.ext4", ["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", device]);
  await runCommand("mount", ["-o", "noatime,noinit_itable", device, directory]);
  const destroy = async () => {
    made.delete(destroy);
    await unlimit(device);
    await runCommand("umount", ["--recursive", directory]).catch(() =>
      // Something of an interrupted run is still in it.
      runCommand("umount", ["--lazy", directory]),
    );
    await runCommand("losetup", ["-d", device]);
    await rm(image, { force: true });
  };
  made.add(destroy);
  await runCommand("sync", ["-f", directory]);
  await limit(device, limits);
  return { directory, destroy };
}

/** Lets a device go as fast as it can. */
export const unlimit = (device: string): Promise<void> =>
  limit(device, { bytesPerSecond: 0, operationsPerSecond: 0 });

/** 0: no limit. */
async function limit(device: string, { bytesPerSecond, operationsPerSecond }: DiskLimits): Promise<void> {
  const number = (await readFile(`/sys/block/${device.replace("/dev/", "")}/dev`, "utf8")).trim();
  for (const [what, value] of [
    ["read_bps", bytesPerSecond],
    ["write_bps", bytesPerSecond],
    ["read_iops", operationsPerSecond],
    ["write_iops", operationsPerSecond],
  ] as const)
    await appendFile(join(BLKIO, `blkio.throttle.${what}_device`), `${number} ${value}\n`);
}

export async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

const made = new Set<() => Promise<void>>();

/** For a run that is interrupted: no process, limit, mount or loop device stays. */
export async function giveUp(): Promise<void> {
  const ended = [...children].map((child) => once(child, "exit"));
  for (const child of children) child.kill("SIGTERM");
  await Promise.race([Promise.all(ended), sleep(CHILDREN_END_MS)]);
  for (const destroy of made) await destroy();
}

/**
 * Starts a program of the node: in the root blkio group, and without a view of the hierarchy, so that a container runtime makes
 * no groups of its own there; mounts stay in a namespace of its own.
 */
export function spawnOnNode(command: readonly string[], options: SpawnOptions): ChildProcess {
  if (!existsSync(join(BLKIO, "cgroup.procs"))) {
    const [program = "", ...args] = command;
    return track(spawn(program, args, options));
  }
  const inside = 'umount /sys/fs/cgroup/blkio && exec "$@"';
  const script = `echo $$ > ${BLKIO}/cgroup.procs && exec unshare --mount --propagation slave sh -c '${inside}' sh "$@"`;
  return track(spawn("sh", ["-ec", script, "sh", ...command], options));
}

const children = new Set<ChildProcess>();

/** Ended with the benchmark if that is interrupted. */
export function track<T extends ChildProcess>(child: T): T {
  children.add(child);
  child.once("exit", () => children.delete(child));
  return child;
}

/** Nothing of any disk is in memory any more. */
export async function dropCaches(): Promise<void> {
  await runCommand("sync", []);
  await writeFile("/proc/sys/vm/drop_caches", "3");
}

/** Brings files back into memory: what a server sends comes from its own machine, whose disk is not measured. */
export const warm = (paths: readonly string[]): Promise<string> =>
  runCommand("sh", [
    "-c",
    'for path in "$@"; do find "$path" -type f -exec cat {} + > /dev/null; done',
    "sh",
    ...paths,
  ]);
