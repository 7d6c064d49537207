// Nodes of the benchmark: a link to registry and bucket, and a disk, the same for every side; each start finds the node empty.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Disk, type DiskLimits, dropCaches, makeDisk, spawnOnNode, track, warm } from "./disk.ts";

export type NodeProfile = {
  name: string;
  bitsPerSecond: number;
  roundTripMs: number;
  disk: DiskLimits | undefined;
};

/** eks: the default volume of the published comparison. */
export const NODE_PROFILES = {
  eks: {
    name: "eks",
    bitsPerSecond: 10e9,
    roundTripMs: 1,
    disk: { bytesPerSecond: 125e6, operationsPerSecond: 3000 },
  },
  "1g": { name: "1g", bitsPerSecond: 1e9, roundTripMs: 20, disk: undefined },
  "8g": { name: "8g", bitsPerSecond: 8e9, roundTripMs: 20, disk: undefined },
} as const satisfies Record<string, NodeProfile>;

export type Remote = {
  /** `127.0.0.1:port`: registry (`/v2/NAME/…`) and bucket (everything else). */
  address: string;
  counted(): Promise<{ bytes: number; requests: number }>;
  stop(): Promise<void>;
};

export async function startRemote(
  profile: NodeProfile,
  bucketDir: string,
  layouts: Record<string, string>,
): Promise<Remote> {
  const named = Object.entries(layouts).map(([name, directory]) => `${name}=${directory}`);
  const program = join(import.meta.dirname, "server.ts");
  const args = [program, String(profile.bitsPerSecond), String(profile.roundTripMs), bucketDir, ...named];
  const child = track(spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] }));
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const address = `127.0.0.1:${(JSON.parse(line) as { port: number }).port}`;
  return {
    address,
    counted: async () =>
      (await (await fetch(`http://${address}/counted`)).json()) as { bytes: number; requests: number },
    async stop() {
      child.kill();
      await once(child, "exit");
    },
  };
}

export type OurStart = {
  /** Until the first start's work was done; how long the last start took, with everything there. */
  firstMs: number;
  againMs: number;
  mountedMs: number;
  method: string;
  requests: number;
  /** Written to the node's disk, and the processor time of all cores, until the first work was done. */
  diskWrittenBytes: number;
  cpuMs: number;
  fetchedBytes: number;
  touchedBytes: number;
};

/** An empty node with this disk; `work` gets a directory on it. */
export async function onEmptyNode<T>(
  scratch: string,
  profile: NodeProfile,
  diskBytes: number,
  remoteFiles: readonly string[],
  work: (directory: string) => Promise<T>,
): Promise<T> {
  const parent = await mkdtemp(join(scratch, "node-"));
  await chmod(parent, 0o755); // programs of images run under accounts of their own
  const disk: Disk = await makeDisk(parent, profile.disk, diskBytes);
  try {
    await dropCaches();
    await warm(remoteFiles);
    const directory = join(disk.directory, "node");
    await mkdir(directory);
    return await work(directory);
  } finally {
    await disk.destroy();
    await rm(parent, { recursive: true, force: true });
  }
}

/** Mounts, and starts over them in turn, by a process that is there already. */
export async function ourStart(
  directory: string,
  remote: Remote,
  digest: string,
  mounts: number,
  starts: number,
): Promise<OurStart> {
  const program = join(import.meta.dirname, "our-start.ts");
  const child = spawnOnNode(
    [
      process.execPath,
      program,
      `http://${remote.address}/`,
      digest,
      directory,
      String(mounts),
      String(starts),
    ],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  if (child.stdout === null || child.stdin === null) throw new Error("no pipes");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  await lines.next();
  child.stdin.write("go\n");
  const { value, done } = await lines.next();
  if (child.exitCode === null) await once(child, "exit");
  if (done === true) throw new Error("the start failed");
  return JSON.parse(value) as OurStart;
}
