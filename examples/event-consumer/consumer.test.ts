// The example as a process beside a real server: what was said before it ran, and what is said while it runs.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connectBus, publish } from "@pilotlight/bus";
import { EVENTS, RolloutPhase } from "@pilotlight/contracts";
import { startTestNats } from "@pilotlight/testing";
import { expect, test } from "vitest";

test("nothing is missed, and nothing comes twice", async () => {
  const nats = await startTestNats();
  const bus = await connectBus({
    url: nats.url,
    service: "test",
    connectTimeoutMs: 10_000,
    streamReplicas: 1,
  });
  const lines: string[] = [];
  const start = () => {
    const child = spawn(process.execPath, [fileURLToPath(new URL("./consumer.ts", import.meta.url))], {
      env: { ...process.env, NATS_URL: nats.url },
      stdio: ["ignore", "pipe", "inherit"],
    });
    createInterface({ input: child.stdout }).on("line", (line) => void lines.push(line));
    return {
      stop: () =>
        new Promise((resolve) => {
          child.once("exit", resolve);
          child.kill("SIGTERM");
        }),
    };
  };
  const scaled = (replicasWanted: number) =>
    publish(bus, EVENTS.scaleDecided, {
      application: "chat",
      version: 1,
      deployment: "main",
      replicasBefore: 1,
      replicasWanted,
      reason: "moreLoad",
    });
  try {
    await scaled(2);
    let consumer = start();
    await expect.poll(() => lines).toHaveLength(1);
    expect(await consumer.stop()).toBe(0);
    await scaled(3);
    await publish(bus, EVENTS.rolloutMoved, {
      application: "chat",
      rolloutId: "r",
      toVersion: 2,
      phase: RolloutPhase.DONE,
      reason: "2 serves all traffic",
    });
    consumer = start();
    await expect.poll(() => lines).toHaveLength(3);
    await consumer.stop();
    expect(lines.map((line) => line.replace(/^\S+ /, ""))).toEqual([
      "chat/main v1: 1 -> 2 replicas (moreLoad)",
      "chat/main v1: 1 -> 3 replicas (moreLoad)",
      "chat to v2: DONE, 2 serves all traffic",
    ]);
  } finally {
    await bus.close();
    await nats.stop();
  }
});
