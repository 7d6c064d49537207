// A containerd of its own for a test, with our snapshotter as a plug-in, and its command line.
import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { Client, credentials } from "@grpc/grpc-js";
import { formatPlatform, hostPlatform } from "@pilotlight/oci";
import { runCommand, startServerProcess } from "@pilotlight/servers";
import type { ImageName, SnapshotNode } from "./node.ts";

export type ContainerdVersion = { directory: string; major: number; minor: number; text: string };

const DEPLOY = join(import.meta.dirname, "../../deploy/containerd");
const PLATFORM = formatPlatform(hostPlatform());
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;
const PULL_TIMEOUT_MS = 60_000;

/** Directories in PILOTLIGHT_CONTAINERD and PATH that have a program. */
const directoriesWith = (program: string): string[] =>
  [process.env.PILOTLIGHT_CONTAINERD, process.env.PATH]
    .flatMap((paths) => (paths ?? "").split(delimiter))
    .filter((directory) => directory !== "" && existsSync(join(directory, program)));

/** The first of them, as a path. */
export function findProgram(program: string): string | undefined {
  const [directory] = directoriesWith(program);
  return directory === undefined ? undefined : join(directory, program);
}

/** The containerds there, one of each release line. */
export async function findContainerds(): Promise<ContainerdVersion[]> {
  const found = new Map<string, ContainerdVersion>();
  for (const directory of directoriesWith("containerd")) {
    const output = await runCommand(join(directory, "containerd"), ["--version"]).catch(() => "");
    const [text = "", major = "0", minor = "0"] = /\b(\d+)\.(\d+)\.\d+/.exec(output) ?? [];
    const line = `${major}.${minor}`;
    if (text !== "" && !found.has(line))
      found.set(line, { directory, major: Number(major), minor: Number(minor), text });
  }
  return [...found.values()];
}

export const RELEASES = [
  { name: "containerd 1.7", fits: ({ major, minor }: ContainerdVersion) => major === 1 && minor === 7 },
  { name: "containerd 2", fits: ({ major }: ContainerdVersion) => major === 2 },
];

/** How `ctr` pulls an image without its layers from the tests' registry; the image's name follows. */
export const pullOf = (release: ContainerdVersion | undefined): string[] => [
  ...["images", "pull", "--snapshotter", "pilotlight"],
  // Otherwise 1.7 fetches all layers before it asks anybody; this way it speaks TLS only, and unpacks for named platforms only.
  ...(release?.major === 1 ? ["--local=false", "--platform", PLATFORM] : ["--plain-http"]),
];

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

/** Starts it beside the node's agent, with the file of deploy/containerd. `namesImages`: whether it says which image it pulls. */
export async function startContainerd(
  version: ContainerdVersion,
  node: SnapshotNode,
  { namesImages = true } = {},
): Promise<Containerd> {
  const directory = join(node.folder, "containerd");
  await mkdir(directory, { recursive: true });
  const config = join(directory, "config.toml");
  const address = join(directory, "c.sock");
  let deployed = replaced(deployedConfig(version), "/run/pilotlight/snapshotter.sock", node.socket);
  deployed = replaced(deployed, "linux/amd64", PLATFORM);
  if (!namesImages) deployed = replaced(deployed, 'annotations = "true"', 'annotations = "false"');
  const own = `root = "${directory}/root"\nstate = "${directory}/state"\n[grpc]\n  address = "${address}"\n`;
  await writeFile(config, configOf(version, deployed, own));
  const env = {
    ...process.env,
    PATH: `${version.directory}:${process.env.PATH}`,
    SSL_CERT_FILE: node.registry.certificateFile,
  };
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

/** What is a node's own; the rest is the file that people add to theirs. */
const OWN_TABLES: Record<number, { version: number; apparmor: string }> = {
  1: { version: 2, apparmor: "io.containerd.grpc.v1.cri" },
  2: { version: 3, apparmor: "io.containerd.cri.v1.runtime" },
};

/** The file of deploy/containerd for a release, as it stands there. */
export const deployedConfig = ({ major, minor }: ContainerdVersion): string =>
  readFileSync(join(DEPLOY, `containerd-${major === 1 ? `1.${minor}` : major}.toml`), "utf8");

/** A whole configuration of one's own around it. `own`: root, state and more. */
export function configOf(release: ContainerdVersion, deployed: string, own: string): string {
  const tables = OWN_TABLES[release.major];
  if (tables === undefined) throw new Error(`containerd ${release.text} is not known here`);
  const plugins = 'disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]';
  const rest = deployed.replace(/^version = \d+$/m, "");
  return [
    `version = ${tables.version}`,
    plugins,
    own,
    rest,
    `[plugins."${tables.apparmor}"]\n  disable_apparmor = true\n`,
  ].join("\n");
}

/** Throws when a file does not say what the test believes. */
function replaced(text: string, from: string, to: string): string {
  if (!text.includes(from)) throw new Error(`${from} is not in the configuration`);
  return text.replaceAll(from, to);
}
