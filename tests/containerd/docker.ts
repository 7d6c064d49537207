// A dockerd of its own for a test, with Docker's containerd image store on our snapshots, and its command line.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runCommand, startServerProcess } from "@pilotlight/servers";

export type Docker = {
  docker(...args: string[]): Promise<string>;
  stop(): Promise<void>;
};

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;
const COMMAND_TIMEOUT_MS = 60_000;
/** Of a block for documentation (RFC 5737): nobody else's. */
const BRIDGE_ADDRESS = "192.0.2.1/24";

/** Why no dockerd can be started here; undefined: one can. */
export async function dockerHindrance(): Promise<string | undefined> {
  for (const [program, version] of [
    ["dockerd", "--version"],
    ["docker", "--version"],
    ["ip", "-V"],
  ] as const) {
    const found = await runCommand(program, [version]).catch(() => undefined);
    if (found === undefined) return `${program} is not installed`;
  }
  return undefined;
}

/** Starts it on a containerd, with its state in `directory` and a bridge that nothing is attached to. */
export async function startDocker(containerd: string, directory: string): Promise<Docker> {
  await mkdir(directory, { recursive: true });
  const config = join(directory, "daemon.json");
  const host = `unix://${join(directory, "d.sock")}`;
  // Without a bridge a daemon takes away the machine's docker0, whoever's it is.
  const bridge = `pl-${process.pid}`;
  await runCommand("ip", ["link", "add", bridge, "type", "bridge"]);
  await runCommand("ip", ["address", "add", BRIDGE_ADDRESS, "dev", bridge]);
  await writeFile(
    config,
    JSON.stringify({
      features: { "containerd-snapshotter": true },
      "storage-driver": "pilotlight",
      "data-root": join(directory, "data"),
      "exec-root": join(directory, "exec"),
      pidfile: join(directory, "pid"),
      containerd,
      hosts: [host],
      bridge,
      iptables: false,
      ip6tables: false,
    }),
  );
  const docker = (...args: string[]) =>
    runCommand("docker", ["--host", host, ...args], { timeoutMs: COMMAND_TIMEOUT_MS });
  const server = await startServerProcess({
    name: "dockerd",
    command: "dockerd",
    args: ["--config-file", config],
    logFile: join(directory, "dockerd.log"),
    isReady: async () => (await docker("info", "--format", "{{.Driver}}")).trim() === "pilotlight",
    readyTimeoutMs: START_TIMEOUT_MS,
    stopTimeoutMs: STOP_TIMEOUT_MS,
  });
  const stop = async () => {
    await server.stop();
    await runCommand("ip", ["link", "delete", bridge]);
  };
  return { docker, stop };
}
