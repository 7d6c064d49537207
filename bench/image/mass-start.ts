// A mass start: one image on several empty nodes of a zone at the same moment, each a process with a cache and a door of its own.
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { spawnOnNode } from "./disk.ts";
import type { Remote } from "./node.ts";

export type MassStart = { nodes: number; starts: number };

export type NodeResult = {
  firstMs: number;
  lastMs: number;
  fetchedBytes: number;
  peerBytes: number;
  hedges: number;
};

const STARTS_AT_ONCE = 2;

/** All starts on all nodes; the nodes hear each other through this process. */
export async function massStart(
  directory: string,
  remote: Remote,
  manifestDigest: string,
  { nodes, starts }: MassStart,
): Promise<NodeResult[]> {
  const all = Array.from({ length: nodes }, (_, i) => startNode(i));
  try {
    await Promise.all(all.map(({ ready }) => ready));
    for (const { child } of all) child.stdin?.write("go\n");
    return await Promise.all(all.map(({ done }) => done));
  } finally {
    await Promise.all(
      all.map(async ({ child }) => {
        child.stdin?.end();
        if (child.exitCode === null) await once(child, "exit");
      }),
    );
  }

  function startNode(number: number) {
    const program = join(import.meta.dirname, "mass-node.ts");
    const nodeId = `node-${number}`;
    const each = String(Math.ceil(starts / nodes));
    const child = spawnOnNode(
      [
        process.execPath,
        program,
        `http://${remote.address}/`,
        manifestDigest,
        join(directory, nodeId),
        nodeId,
        each,
        String(STARTS_AT_ONCE),
      ],
      { stdio: ["pipe", "pipe", "inherit"] },
    );
    const ready = Promise.withResolvers<void>();
    const done = Promise.withResolvers<NodeResult>();
    // One of them is looked at later.
    for (const { promise } of [ready, done]) promise.catch(() => undefined);
    createInterface({ input: child.stdout as NodeJS.ReadableStream })
      .on("line", (line) => {
        const message = JSON.parse(line) as { say?: unknown; ready?: true; done?: NodeResult };
        if (message.say !== undefined)
          for (const other of all)
            if (other.child !== child) other.child.stdin?.write(`${JSON.stringify(message.say)}\n`);
        if (message.ready) ready.resolve();
        if (message.done !== undefined) done.resolve(message.done);
      })
      .on("close", () => {
        const error = new Error(`${nodeId} of the mass start failed`);
        ready.reject(error);
        done.reject(error);
      });
    return { child, ready: ready.promise, done: done.promise };
  }
}
