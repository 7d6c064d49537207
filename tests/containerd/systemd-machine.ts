// A machine with a systemd of its own, in namespaces: the files are this machine's, copy on write in memory, and nothing of it
// is left when it ends. The network is this machine's. Needs root and systemd's own cgroup hierarchy (version 1).
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runCommand } from "@pilotlight/servers";

const SYSTEMD = "/lib/systemd/systemd";
const CGROUPS = "/sys/fs/cgroup/systemd";
const BOOT_TIMEOUT_MS = 30_000;
const POLL_INTERVAL_MS = 50;

/** No unit of this machine is wanted there; $1: a folder that both share, $2: where the machine's root is put together. */
const BOOT = `set -eu
mkdir -p "$2"; mount -t tmpfs tmpfs "$2"; cd "$2"; mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root; cd root
rm -rf lib/systemd/system/*.wants etc/systemd/system/*.wants; : >etc/fstab
mount -t proc proc proc; mount --rbind /dev dev; mount --rbind /sys sys
for d in run var/lib; do mount -t tmpfs tmpfs $d; done
mkdir -p ".$1"; mount --bind "$1" ".$1"
mkdir old; pivot_root . old; umount --lazy /old; rmdir old
exec env -i container=docker PATH=/usr/sbin:/usr/bin:/sbin:/bin ${SYSTEMD} --system --unit=multi-user.target --show-status=0`;

/** What a privileged pod with hostPID, / at /host and its own files ($1 at /pilotlight) runs. */
const POD = `set -eu
program=$1; shift
mount -t tmpfs tmpfs /mnt; cd /mnt; mkdir host usr etc dev proc tmp pilotlight
mount --rbind / host; mount --make-rslave host
for d in usr etc dev proc; do mount --rbind /$d $d; done
for d in bin lib lib64 sbin; do ln -s usr/$d $d; done
mount --bind "$program" pilotlight
exec chroot . /pilotlight/install.sh "$@"`;

/** Why no such machine can be started here; undefined: it can. */
export function systemdHindrance(): string | undefined {
  if (!existsSync(SYSTEMD)) return "systemd is not installed";
  return existsSync(CGROUPS) ? undefined : "systemd has no cgroup hierarchy of its own here";
}

export class SystemdMachine {
  readonly #process: ChildProcess;
  readonly #init: number;
  readonly #cgroup: string;

  private constructor(child: ChildProcess, init: number, cgroup: string) {
    this.#process = child;
    this.#init = init;
    this.#cgroup = cgroup;
  }

  /** Boots one that sees `folder` under the same path. */
  static async start(folder: string): Promise<SystemdMachine> {
    const cgroup = join(CGROUPS, basename(folder));
    mkdirSync(cgroup);
    const script = `echo $$ >${cgroup}/cgroup.procs; exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup --propagation private bash -c '${BOOT}' boot "$@"`;
    const child = spawn("bash", ["-c", script, "machine", folder, join(folder, "machine")], {
      stdio: "ignore",
    });
    const until = performance.now() + BOOT_TIMEOUT_MS;
    for (;;) {
      const init = childOf(child);
      const machine = new SystemdMachine(child, init, cgroup);
      const state = init > 0 ? await machine.run("systemctl", "is-system-running").catch(() => "") : "";
      if (state.startsWith("running")) return machine;
      if (performance.now() > until || child.exitCode !== null) {
        await machine.stop();
        throw new Error(`systemd is not up after ${BOOT_TIMEOUT_MS} ms`);
      }
      await sleep(POLL_INTERVAL_MS);
    }
  }

  /** Runs a command on the machine; gives its output. */
  run(...command: string[]): Promise<string> {
    return runCommand("nsenter", [...this.#namespaces(), ...command]);
  }

  /** Starts what the container of the DaemonSet starts; `program`: the folder that its image has at /pilotlight. */
  pod(program: string, environment: Record<string, string>, ...args: string[]): Pod {
    const variables = Object.entries({ PATH: "/usr/sbin:/usr/bin", ...environment }).map(
      ([k, v]) => `${k}=${v}`,
    );
    const inside = [
      "unshare",
      "--mount",
      "env",
      "-i",
      ...variables,
      "sh",
      "-c",
      POD,
      "pod",
      program,
      ...args,
    ];
    return new Pod(
      spawn("nsenter", [...this.#namespaces(), ...inside], { stdio: ["ignore", "pipe", "pipe"] }),
    );
  }

  /** Ends every process of the machine; its mounts go with them. */
  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    if (this.#init > 0) process.kill(this.#init, "SIGKILL");
    else this.#process.kill("SIGKILL");
    if (this.#process.exitCode === null) await ended;
    removeCgroup(this.#cgroup);
  }

  #namespaces(): string[] {
    return ["--target", String(this.#init), "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--"];
  }
}

class Pod {
  readonly #process: ChildProcess;
  #output = "";
  readonly #ended: Promise<number | null>;

  constructor(child: ChildProcess) {
    this.#process = child;
    for (const stream of [child.stdout, child.stderr])
      stream?.on("data", (piece: Buffer) => {
        this.#output += piece.toString();
      });
    this.#ended = new Promise((resolve) => child.once("close", resolve));
  }

  get output(): string {
    return this.#output;
  }

  /** Waits until it ends by itself; gives its exit status. */
  ended(): Promise<number | null> {
    return this.#ended;
  }

  async stop(): Promise<void> {
    // nsenter waits for what it started, and does not pass signals on.
    process.kill(childOf(this.#process), "SIGTERM");
    await this.#ended;
  }
}

/** The process that this one started; 0: none yet. */
function childOf({ pid }: ChildProcess): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ")[0]);
}

function removeCgroup(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeCgroup(join(path, entry.name));
  rmdirSync(path);
}
