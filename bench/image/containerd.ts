// containerd as a peer: a daemon with its state on the node's disk, `ctr` to pull and to run, with a snapshotter of choice.
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runCommand } from "@pilotlight/servers";
import { RUN_MARK } from "../src/leftovers.ts";
import { spawnOnNode } from "./disk.ts";

export type Snapshotter = "overlayfs" | "erofs" | "stargz";

/** A snapshotter that is a process of its own: its command, and the socket that it opens. */
export type Beside = { beside: string; socket: string };

const START_TIMEOUT_MS = 20_000;

/** Where containerd 2.1 or newer is: a directory with its programs, of PILOTLIGHT_BENCH_CONTAINERD or of PATH. */
export async function findContainerd(): Promise<{ directory: string; version: string }> {
  const directories = [
    process.env.PILOTLIGHT_BENCH_CONTAINERD ?? "",
    ...(process.env.PATH ?? "").split(delimiter),
  ];
  for (const directory of directories) {
    if (directory === "" || !existsSync(join(directory, "containerd"))) continue;
    const version = await runCommand(join(directory, "containerd"), ["--version"]).catch(() => "");
    const [, major = "0", minor = "0"] = / v?(\d+)\.(\d+)\./.exec(version) ?? [];
    if (Number(major) > 2 || (Number(major) === 2 && Number(minor) >= 1))
      return { directory, version: version.trim() };
  }
  throw new Error("containerd 2.1 is not there: PILOTLIGHT_BENCH_CONTAINERD names its directory");
}

export type Containerd = {
  /** Pulls and runs; ms until the program has said DONE, and when the pull had ended. */
  start(reference: string, snapshotter: Snapshotter): Promise<{ ms: number; pulledMs: number }>;
  stop(): Promise<void>;
};

/** Starts a daemon that has nothing. */
export async function startContainerd(
  programs: string,
  directory: string,
  proxy?: Beside,
): Promise<Containerd> {
  await mkdir(directory, { recursive: true });
  const config = join(directory, "config.toml");
  const socket = join(directory, "containerd.sock");
  await writeFile(config, configOf(directory, socket) + (proxy === undefined ? "" : proxyConfigOf(proxy)));
  const env = { ...process.env, PATH: `${programs}:${process.env.PATH}` };
  const log = join(directory, "containerd.log");
  const daemon = spawnOnNode(["sh", "-c", commandOf(config, log, proxy)], {
    env,
    stdio: "ignore",
  });
  const ctr = async (...args: string[]) =>
    runCommand(join(programs, "ctr"), ["--address", socket, ...args], { env });
  for (let waitedMs = 0; ; waitedMs += 100) {
    if (
      await ctr("version").then(
        () => true,
        () => false,
      )
    )
      break;
    if (waitedMs > START_TIMEOUT_MS)
      throw new Error(`containerd does not start:\n${(await readFile(log, "utf8")).slice(-2000)}`);
    await sleep(100);
  }
  return {
    async start(reference, snapshotter) {
      const startedAt = performance.now();
      await ctr("image", "pull", "--plain-http", "--snapshotter", snapshotter, reference);
      const pulledMs = performance.now() - startedAt;
      // runc remembers names beyond the daemon, where a run was interrupted.
      const name = `start-${randomUUID()}`;
      const mark = ["--env", `${RUN_MARK}=${process.env[RUN_MARK]}`];
      const output = await ctr(
        ...["run", "--rm", "--net-host", ...mark, "--snapshotter", snapshotter, reference, name],
      );
      if (!output.split("\n").some((line) => line.trim() === "DONE"))
        throw new Error(`no work done:\n${output}`);
      return { ms: performance.now() - startedAt, pulledMs };
    },
    async stop() {
      daemon.kill("SIGTERM");
      await once(daemon, "exit");
    },
  };
}

/** Both end together: the shell passes the signal on. */
function commandOf(config: string, log: string, proxy: Beside | undefined): string {
  const containerd = `containerd --config ${config} > ${log} 2>&1`;
  if (proxy === undefined) return `exec ${containerd}`;
  const waiting = `while [ ! -S ${proxy.socket} ]; do kill -0 $beside || exit 1; sleep 0.05; done`;
  const both = `${proxy.beside} & beside=$!; ${waiting}; ${containerd} & daemon=$!`;
  // A wait that a signal interrupts returns: the second one waits for the ends.
  return `${both}; trap 'kill $beside $daemon' TERM; wait; wait $daemon`;
}

const proxyConfigOf = ({ socket }: Beside) => `
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "stargz"
    differ = "walking"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "${socket}"
  [proxy_plugins.stargz.exports]
    enable_remote_snapshot_annotations = "true"
`;

const configOf = (directory: string, socket: string) => `version = 3
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "${socket}"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["erofs", "walking"]
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 8
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "overlayfs"
    differ = "walking"
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "erofs"
    differ = "erofs"
`;
