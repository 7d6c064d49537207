// Every process of the platform is killed in turn while clients ask. What a ready replica could serve must be served.
import { readdirSync, readFileSync } from "node:fs";
import { CHAT_MODEL, type LoadReport, startLoad, untilApplication } from "@pilotlight/local";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startTestPlatform, type TestPlatform } from "../e2e/platform.ts";

let running: TestPlatform;

beforeAll(async () => {
  running = await startTestPlatform("directory");
  await running.demo.deploy();
}, 300_000);
afterAll(() => running?.stop());

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks while `fault` happens and for a while after; gives what the clients saw. */
async function ask(fault: () => Promise<void>): Promise<LoadReport> {
  const load = startLoad(running.platform.endpoints.gatewayUrl, {
    model: CHAT_MODEL,
    clients: 3,
    maxTokens: 12,
  });
  try {
    await pause(500);
    await fault();
    await pause(1_500);
  } finally {
    await load.stop();
  }
  return load.report();
}

/** Kills a service and waits until it is ready again, in a new process. */
async function killService(name: string): Promise<void> {
  const { supervisor } = running.platform;
  const before = supervisor.pidOf(name);
  supervisor.kill(name, "SIGKILL");
  await expect
    .poll(() => supervisor.pidOf(name) !== undefined && supervisor.pidOf(name) !== before, {
      timeout: 20_000,
    })
    .toBe(true);
  await supervisor.ready();
}

/** The ready replicas' names; none while control cannot say. */
const readyReplicas = () =>
  running.demo.control.application("chat").then(
    ({ replicas }) => replicas.filter(({ phase }) => phase === "ready").map(({ replicaId }) => replicaId),
    (): string[] => [],
  );

const oneReplica = () =>
  untilApplication(running.demo.control, "chat", 120_000, (application) =>
    application.replicas.some((replica) => replica.phase === "ready"),
  );

describe("killed under load, no request fails:", () => {
  test.each(["control", "autoscaler", "rollout", "image-converter", "weight-streamer", "logs", "node-agent"])(
    "%s",
    async (name) => {
      const report = await ask(() => killService(name));
      expect(report.failures).toEqual([]);
      expect(report.requests).toBeGreaterThan(0);
    },
    120_000,
  );
  test.each(["nats", "postgres"] as const)(
    "%s, away for 30 seconds, and no replica is given up for it",
    async (server) => {
      const before = await readyReplicas();
      const report = await ask(async () => running.platform.servers[server]?.interrupt(30_000));
      expect(report.failures).toEqual([]);
      const kept = async () => (await readyReplicas()).filter((name) => before.includes(name)).length;
      await expect.poll(kept, { timeout: 60_000 }).toBeGreaterThan(0);
    },
    180_000,
  );
});

test("a killed gateway refuses nobody: only what it held is cut, and the next request is served", async () => {
  const report = await ask(() => killService("gateway"));
  // Three clients had one request each in the killed process; nobody was refused meanwhile.
  expect(report.failures.length).toBeLessThanOrEqual(3);
  expect(report.failures.filter((message) => /ECONNREFUSED/.test(message))).toEqual([]);
  const after = await ask(async () => {});
  expect(after.failures).toEqual([]);
}, 120_000);

test("a killed worker is replaced; its requests are answered by another replica", async () => {
  const { control } = running.demo;
  const replica = (await control.application("chat")).replicas.find(
    (candidate) => candidate.phase === "ready",
  );
  if (replica === undefined) throw new Error("no ready replica");
  const report = await ask(async () => {
    process.kill(workerPid(replica.replicaId), "SIGKILL");
    await untilApplication(control, "chat", 120_000, (application) =>
      application.replicas.some(
        (candidate) => candidate.phase === "ready" && candidate.replicaId !== replica.replicaId,
      ),
    );
  });
  expect(report.failures).toEqual([]);
}, 240_000);

test("a version deployed while services die one after the other still takes over", async () => {
  await oneReplica();
  const stop = new AbortController();
  const killing = (async () => {
    const names = [
      "control",
      "rollout",
      "autoscaler",
      "node-agent",
      "image-converter",
      "weight-streamer",
      "logs",
    ];
    for (let turn = 0; !stop.signal.aborted; turn++) {
      await pause(700);
      await killService(names[turn % names.length] ?? "control");
    }
  })();
  try {
    const { forward, back } = await running.demo.replace();
    expect([...forward.failures, ...back.failures]).toEqual([]);
  } finally {
    stop.abort();
    await killing;
  }
}, 600_000);

/** The worker's own process: it carries its replica's ID in its environment's assignment file. */
function workerPid(replicaId: string): number {
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const environment = readFileSync(`/proc/${name}/environ`, "utf8");
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8");
      if (environment.includes(`${replicaId}`) && command.includes("worker/dist/main.js"))
        return Number(name);
    } catch {
      // gone, or not ours to read
    }
  }
  throw new Error(`no process of replica ${replicaId}`);
}
