// A node of Pilotlight's side: its node agent and its weight streamer, on the node's disk and behind the node's link. They start
// with the node and join when it has booted.
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { serviceMain } from "@pilotlight/local";
import { freePort } from "@pilotlight/servers";
import { mountHugeMemory, unmountHugeMemory } from "@pilotlight/weights/huge-memory";
import { spawnOnNode } from "../image/disk.ts";
import { SPARE_ROOM_BYTES } from "../weights/pilotlight.ts";
import { type Gate, startGate } from "./gate.ts";

/** Memory of a node beside the weights themselves. */
const WEIGHT_ROOM_BYTES = 64e6;

export type NodeOptions = {
  nodeId: string;
  /** On the node's disk. */
  directory: string;
  /** In memory, of all nodes. */
  memory: string;
  natsUrl: string;
  imageConverterAddress: string;
  /** The bucket as the node sees it: through its link. */
  bucketUri: string;
  /** Credentials. */
  env: Record<string, string>;
  /** Of the model that this node is for: its memory is made ready while the node boots, as it is on a node that serves. */
  weightBytes: number;
};

export type Line = { at: number; component: string; msg: string } & Record<string, unknown>;

export type BenchNode = {
  /** The node has booted: its daemons can reach the others. */
  joins(): void;
  /** The first line, past or future, of any daemon that matches. */
  logged(match: (line: Line) => boolean): Promise<Line>;
  /** The first line so far that matches. */
  said(match: (line: Line) => boolean): Line | undefined;
  /** Ends the replicas and the daemons; nothing of the node stays. */
  stop(): Promise<void>;
};

/** Starts the daemons of a node that boots. */
export async function startNode(options: NodeOptions): Promise<BenchNode> {
  const { nodeId, directory, memory, env } = options;
  const gate: Gate = await startGate(Number(new URL(options.natsUrl).port));
  const segments = join(memory, nodeId);
  // As the streamer's documentation says; the daemons' own view of mounts is made with it.
  if (process.geteuid?.() === 0) mountHugeMemory(segments);
  // Workers run under accounts of their own.
  await chmod(directory, 0o755);
  const [streamerPort, agentPort] = [await freePort(), await freePort()];
  const common = {
    PATH: process.env.PATH ?? "",
    HOME: process.env.HOME ?? "",
    ...env,
    NATS_URL: `nats://127.0.0.1:${gate.port}`,
    NODE_ID: nodeId,
    ADMIN_PORT: "0",
    WEIGHT_STREAMER_ADDRESS: `127.0.0.1:${streamerPort}`,
  };
  const log = new NodeLog();
  const start = async (name: string, settings: Record<string, string>): Promise<ChildProcess> => {
    const stateDir = join(directory, name);
    await mkdir(stateDir);
    const child = spawnOnNode([process.execPath, serviceMain(name, "bundle")], {
      env: { ...common, STATE_DIR: stateDir, ...settings },
      stdio: ["ignore", "pipe", "inherit"],
    });
    log.read(child);
    return child;
  };
  const streamer = await start("weight-streamer", {
    GRPC_PORT: String(streamerPort),
    SEGMENT_DIR: segments,
    MEMORY_BYTES_MAX: String(options.weightBytes + WEIGHT_ROOM_BYTES),
    SPARE_BYTES: String(options.weightBytes + SPARE_ROOM_BYTES),
    DISK_BYTES_MAX: "0",
  });
  const agent = await start("node-agent", {
    GRPC_PORT: String(agentPort),
    BUCKET_URI: options.bucketUri,
    IMAGE_CONVERTER_ADDRESS: options.imageConverterAddress,
    SEGMENT_DIRS: segments,
    ACCELERATORS: "1",
    PULL_NEW_IMAGES: "false",
    STOP_REPLICAS_ON_EXIT: "true",
  });
  return {
    joins: gate.open,
    logged: (match) => log.first(match),
    said: (match) => log.find(match),
    async stop() {
      for (const child of [agent, streamer]) await end(child);
      await gate.close();
      unmountHugeMemory(segments);
    },
  };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  await ended;
}

/** What the daemons said. */
class NodeLog {
  readonly #lines: Line[] = [];
  readonly #waiting = new Set<() => void>();

  read(child: ChildProcess): void {
    if (child.stdout === null) return;
    createInterface({ input: child.stdout }).on("line", (text) => {
      const line = JSON.parse(text) as Line & { time: string; level: string };
      if (line.level === "error") process.stderr.write(`  ${text}\n`);
      this.#lines.push({ ...line, at: Date.parse(line.time) });
      for (const check of this.#waiting) check();
    });
  }

  find(match: (line: Line) => boolean): Line | undefined {
    return this.#lines.find(match);
  }

  first(match: (line: Line) => boolean): Promise<Line> {
    return new Promise((resolve) => {
      const check = () => {
        const found = this.find(match);
        if (found === undefined) return;
        this.#waiting.delete(check);
        resolve(found);
      };
      this.#waiting.add(check);
      check();
    });
  }
}
