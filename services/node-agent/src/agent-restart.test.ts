import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { publish } from "@pilotlight/bus";
import { EVENTS, GoneReason, NodeAgentService, ReplicaPhase } from "@pilotlight/contracts";
import { grpcClient } from "@pilotlight/service";
import { startTestNats, type TestServer } from "@pilotlight/testing";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { isAlive, TestNode } from "./testing/harness.ts";

let nats: TestServer;
let node: TestNode;
let run = 0;
/** A replica of this test alone: streams live as long as the server. */
const id = (name: string) => `chat-main-v2-${name}${run}`;

beforeAll(async () => {
  nats = await startTestNats();
});
afterAll(() => nats.stop());
beforeEach(async () => {
  run++;
  node = await TestNode.start(nats.url);
});
afterEach(async () => {
  node.killWorkers();
  await node.close();
});

describe("an agent that comes and goes", () => {
  test("finds its workers again, which lost nothing; its orders reach them", async () => {
    await node.startAgent();
    const replica = id("a");
    await node.want(replica, "ready", { environment: { DRAIN_MS: "100" } });
    await node.reaches(replica, ReplicaPhase.READY);
    const pid = node.pidOf(replica);
    await node.killAgent();
    await sleep(200);
    expect(isAlive(pid)).toBe(true);
    await node.unwant(replica); // told while nobody listens
    await node.startAgent();
    const gone = await node.reaches(replica, ReplicaPhase.GONE);
    expect(gone.goneReason).toBe(GoneReason.DRAINED);
    expect(isAlive(pid)).toBe(false);
    await expect.poll(() => node.lines(replica).map(({ message }) => message)).toContain("draining");
  });
  test("a graceful stop leaves the workers too, and the platform still counts them", async () => {
    await node.startAgent();
    await node.want(id("a"), "ready");
    await node.reaches(id("a"), ReplicaPhase.READY);
    const pid = node.pidOf(id("a"));
    expect(await node.stopAgent()).toBe(0);
    expect(isAlive(pid)).toBe(true);
    await node.startAgent();
    await expect.poll(() => node.samples.at(-1)?.replicas.length).toBe(1);
    expect(node.latest(id("a"))?.phase).toBe(ReplicaPhase.READY);
    const agent = grpcClient(NodeAgentService, node.agentAddress, { timeoutMs: 5_000 });
    expect((await agent.listReplicas({})).replicas).toMatchObject([
      { replicaId: id("a"), phase: ReplicaPhase.READY },
    ]);
    agent.close();
  });
  test("a worker that died meanwhile is gone", async () => {
    await node.startAgent();
    await node.want(id("a"), "ready");
    await node.reaches(id("a"), ReplicaPhase.READY);
    await node.killAgent();
    process.kill(node.pidOf(id("a")), "SIGKILL");
    await node.startAgent();
    const gone = await node.reaches(id("a"), ReplicaPhase.GONE);
    expect(gone.goneReason).toBe(GoneReason.CRASHED);
    expect(gone.failure?.message).toContain("while the node agent was away");
  });
  test("at any moment of a start ends with one ready worker all the same", async () => {
    const replica = id("a");
    await node.startAgent();
    await node.want(replica, "ready");
    for (const delayMs of [0, 15, 40, 90]) {
      await sleep(delayMs);
      await node.killAgent();
      await node.startAgent();
    }
    await node.reaches(replica, ReplicaPhase.READY);
    const marked = readdirSync("/proc").filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`).includes(
          `PILOTLIGHT_PLACE=${node.stateDir}/run/${replica}\0`,
        );
      } catch {
        return false;
      }
    });
    expect(marked).toEqual([String(node.pidOf(replica))]);
  });
  test("processes and mounts that nobody remembers are swept, and the platform learns of lost replicas", async () => {
    const place = id("lost");
    const folder = join(node.stateDir, "run", place);
    await mkdir(folder, { recursive: true });
    await mkdir(join(node.stateDir, "images"), { recursive: true });
    await symlink("/", join(node.stateDir, "images", place));
    const orphan = spawn("sleep", ["1000"], {
      env: { PILOTLIGHT_PLACE: folder },
      detached: true,
      stdio: "ignore",
    });
    const ended = new Promise((resolve) => orphan.once("exit", resolve));
    const status = { replicaId: place, application: "chat", nodeId: "node-1", phase: ReplicaPhase.READY };
    await publish(node.bus, EVENTS.replicaReported, { status });
    await node.startAgent();
    await ended;
    expect(existsSync(join(node.stateDir, "images", place))).toBe(false);
    const gone = await node.reaches(place, ReplicaPhase.GONE);
    expect(gone).toMatchObject({
      goneReason: GoneReason.CRASHED,
      failure: { message: expect.stringContaining("lost its memory") },
    });
  });
  test("with stopReplicasOnExit a stop takes the workers along and says so", async () => {
    await node.startAgent({ STOP_REPLICAS_ON_EXIT: "true", EXIT_DRAIN_TIMEOUT_MS: "1000" });
    await node.want(id("a"), "ready");
    await node.want(id("b"), "deaf");
    await node.reaches(id("a"), ReplicaPhase.READY);
    await node.reaches(id("b"), ReplicaPhase.READY);
    expect(await node.stopAgent()).toBe(0);
    for (const name of ["a", "b"])
      expect((await node.reaches(id(name), ReplicaPhase.GONE)).goneReason).toBe(GoneReason.DRAINED);
    expect(readdirSync(join(node.stateDir, "images"))).toEqual([]);
  });
  test("what does not fit is refused, and fits when place was made", async () => {
    await node.startAgent({ ACCELERATORS: "1" });
    await node.want(id("a"), "ready");
    await node.reaches(id("a"), ReplicaPhase.READY);
    await node.want(id("b"), "ready");
    const refused = await node.reaches(id("b"), ReplicaPhase.GONE);
    expect(refused).toMatchObject({
      goneReason: GoneReason.START_FAILED,
      failure: { code: "resourceExhausted" },
    });
    expect(refused.failure?.message).toContain("1 accelerators wanted, 0 of 1 free");
    await node.unwant(id("a"));
    await node.reaches(id("a"), ReplicaPhase.GONE);
    await node.want(id("c"), "ready");
    await node.reaches(id("c"), ReplicaPhase.READY);
  });
});
