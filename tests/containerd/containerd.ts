// A containerd of its own for a test, with our snapshotter as a plug-in, and its command line.
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { Client, credentials } from "@grpc/grpc-js";
import { runCommand, startServerProcess } from "@pilotlight/servers";
import type { ImageName, SnapshotNode } from "./node.ts";

export type ContainerdVersion = { directory: string; major: number; minor: number; text: string };

const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;
const PULL_TIMEOUT_MS = 60_000;

/** The containerds of this machine: directories in PILOTLIGHT_CONTAINERD and PATH, one of each release line. */
export async function findContainerds(): Promise<ContainerdVersion[]> {
  const directories = [process.env.PILOTLIGHT_CONTAINERD, process.env.PATH].flatMap((paths) =>
    (paths ?? "").split(delimiter),
  );
  const found = new Map<string, ContainerdVersion>();
  for (const directory of directories) {
    if (directory === "" || !existsSync(join(directory, "containerd"))) continue;
    const output = await runCommand(join(directory, "containerd"), ["--version"]).catch(() => "");
    const [text = "", major = "0", minor = "0"] = /\b(\d+)\.(\d+)\.\d+/.exec(output) ?? [];
    const line = `${major}.${minor}`;
    if (text !== "" && !found.has(line))
      found.set(line, { directory, major: Number(major), minor: Number(minor), text });
  }
  return [...found.values()];
}

export type Containerd = {
  /** Its socket. */
  address: string;
  ctr(...args: string[]): Promise<string>;
  /** Pulls as a kubelet does, over the CRI; the image is in the namespace k8s.io. */
  criPull(reference: string): Promise<void>;
  /** Runs an image to its end; gives its output. */
  run(image: ImageName, id: string, ...command: string[]): Promise<string>;
  stop(): Promise<void>;
};

/** Starts it beside the node's agent. `namesImages`: whether it says which image it pulls. */
export async function startContainerd(
  version: ContainerdVersion,
  node: SnapshotNode,
  { namesImages = true } = {},
): Promise<Containerd> {
  const directory = join(node.folder, "containerd");
  await mkdir(directory, { recursive: true });
  const config = join(directory, "config.toml");
  const address = join(directory, "c.sock");
  const configOf = version.major === 1 ? configOf1 : configOf2;
  await writeFile(config, configOf(directory, address, plugIn(node.socket, namesImages)));
  const env = { ...process.env, PATH: `${version.directory}:${process.env.PATH}` };
  const ctr = (...args: string[]) =>
    runCommand(join(version.directory, "ctr"), ["--address", address, "--namespace", "k8s.io", ...args], {
      env,
      timeoutMs: PULL_TIMEOUT_MS,
    });
  const server = await startServerProcess({
    name: `containerd ${version.text}`,
    command: join(version.directory, "containerd"),
    args: ["--config", config],
    logFile: join(directory, "containerd.log"),
    env,
    isReady: async () => (await ctr("version")) !== "",
    readyTimeoutMs: START_TIMEOUT_MS,
    stopTimeoutMs: STOP_TIMEOUT_MS,
  });
  const cri = new Client(`unix:${address}`, credentials.createInsecure());
  return {
    address,
    ctr,
    criPull: (reference) => criPull(cri, reference),
    run: (image, id, ...command) =>
      ctr("run", "--rm", "--snapshotter", "pilotlight", node.reference(image), node.named(id), ...command),
    async stop() {
      cri.close();
      await server.stop();
    },
  };
}

/** runtime.v1.PullImageRequest { ImageSpec image = 1 { string image = 1 } }, the reference below 126 bytes. */
function criPull(client: Client, reference: string): Promise<void> {
  const field = (bytes: Buffer) => Buffer.concat([Buffer.from([0x0a, bytes.length]), bytes]);
  const request = field(field(Buffer.from(reference)));
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      "/runtime.v1.ImageService/PullImage",
      (bytes: Buffer) => bytes,
      (bytes) => bytes,
      request,
      { deadline: Date.now() + PULL_TIMEOUT_MS },
      (error) => (error === null ? resolve() : reject(error)),
    );
  });
}

const plugIn = (socket: string, namesImages: boolean) => `
[proxy_plugins.pilotlight]
  type = "snapshot"
  address = "${socket}"
  [proxy_plugins.pilotlight.exports]
    enable_remote_snapshot_annotations = "${namesImages}"
`;

const configOf2 = (directory: string, address: string, proxyPlugin: string) => `version = 3
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "${address}"
${proxyPlugin}
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "pilotlight"
  disable_snapshot_annotations = false
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/${process.arch === "x64" ? "amd64" : process.arch}"
  snapshotter = "pilotlight"
`;

const configOf1 = (directory: string, address: string, proxyPlugin: string) => `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "${address}"
${proxyPlugin}
[plugins."io.containerd.grpc.v1.cri"]
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "pilotlight"
    disable_snapshot_annotations = false
`;
