import { readdirSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { GoneReason, LogLevel, NodeAgentService, ReplicaPhase } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
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
  node = await TestNode.start(nats.url);
  await node.startAgent({ WORKER_IMAGE: "oci:///images/worker:1", ACCELERATORS: "64", MEMORY_MIB: "65536" });
});
afterAll(async () => {
  await node.close();
  await nats.stop();
});
beforeEach(() => {
  run++;
  node.converter.fail = undefined;
  node.converter.convert = undefined;
  node.converter.asked.length = 0;
});
afterEach(() => node.killWorkers());

describe("a replica's life", () => {
  test("an image that was collected as garbage after it was named is asked for again", async () => {
    const replica = id("collected");
    const file = join(node.home, "image", "image.json");
    node.converter.convert = async (times) => {
      if (times === 1) renameSync(file, `${file}.gone`);
      else renameSync(`${file}.gone`, file);
    };
    await node.want(replica, "ready", { environment: { MODE: "ready" } });
    await node.reaches(replica, ReplicaPhase.READY);
    expect(node.converter.asked).toHaveLength(2);
  });

  test("image, process, ready, drain, gone: each phase is said, the logs carry its name, nothing is left", async () => {
    const replica = id("a");
    await node.want(replica, "ready", { environment: { MODE: "ready", DRAIN_MS: "200", HTTP_PORT: "1" } });
    const ready = await node.reaches(replica, ReplicaPhase.READY);
    expect(ready).toMatchObject({
      application: "chat",
      version: 2,
      deployment: "main",
      nodeId: "node-1",
      inFlightMax: 4,
    });
    expect(node.converter.asked).toEqual(["registry/worker:1"]);
    const up = () => node.lines(replica).find(({ message }) => message === "up");
    await expect.poll(up).toBeDefined();
    const environment = JSON.parse(up()?.fieldsJson ?? "{}").environment as string[];
    expect(environment.filter((name) => name !== "PATH")).toEqual([
      "ADVERTISED_HOST",
      "ASSIGNMENT_FILE",
      "DRAIN_MS",
      "HTTP_HOST",
      "HTTP_PORT",
      "LOG_LEVEL",
      "MODE",
      "NATS_URL",
      "NODE_AGENT_ADDRESS",
      "NODE_COMPILE_CACHE",
      "PILOTLIGHT_PLACE",
      "REPLICA_TOKEN",
      "WEIGHT_STREAMER_ADDRESS",
    ]);
    await expect
      .poll(() => node.samples.at(-1)?.replicas)
      .toMatchObject([{ replicaId: replica, accelerators: 1, memoryMib: 256 }]);
    await node.unwant(replica);
    const gone = await node.reaches(replica, ReplicaPhase.GONE);
    expect(gone.goneReason).toBe(GoneReason.DRAINED);
    expect(gone.failure).toBeUndefined();
    expect(gone.marks.map(({ phase }) => ReplicaPhase[phase])).toEqual([
      "DECIDED",
      "PLACED",
      "IMAGE_USABLE",
      "PROCESS_UP",
      "READY",
      "DRAINING",
      "GONE",
    ]);
    expect(up()).toMatchObject({
      application: "chat",
      version: 2,
      deployment: "main",
      requestId: "req-1",
      level: LogLevel.INFO,
      service: "worker",
    });
    await expect.poll(() => node.lines(replica).map(({ message }) => message)).toEqual(["up", "draining"]);
    await expect.poll(() => readdirSync(join(node.stateDir, "run"))).toEqual([]);
    expect(readdirSync(join(node.stateDir, "images"))).toEqual([]);
    await expect.poll(() => node.samples.at(-1)?.replicas).toEqual([]);
  });
  test("an order that comes again changes nothing, even when its replica is gone", async () => {
    const replica = id("a");
    await node.want(replica, "ready");
    await node.reaches(replica, ReplicaPhase.READY);
    const pid = node.pidOf(replica);
    await node.want(replica, "ready");
    await node.unwant(replica);
    await node.reaches(replica, ReplicaPhase.GONE);
    expect(isAlive(pid)).toBe(false);
    await node.want(replica, "ready");
    await node.want(id("b"), "ready");
    await node.reaches(id("b"), ReplicaPhase.READY);
    expect(node.latest(replica)?.phase).toBe(ReplicaPhase.GONE);
  });
  test("a worker that cannot start, or crashes, is gone with its last words", async () => {
    await node.want(id("a"), "crashStart");
    const failed = await node.reaches(id("a"), ReplicaPhase.GONE);
    expect(failed).toMatchObject({ goneReason: GoneReason.START_FAILED, failure: { code: "internal" } });
    expect(failed.failure?.message).toMatch(
      /exited with code 3 before it was ready.*ValueError: no such thing/s,
    );
    await node.want(id("b"), "ready");
    await node.reaches(id("b"), ReplicaPhase.READY);
    process.kill(node.pidOf(id("b")), "SIGKILL");
    const crashed = await node.reaches(id("b"), ReplicaPhase.GONE);
    expect(crashed).toMatchObject({ goneReason: GoneReason.CRASHED, failure: { code: "resourceExhausted" } });
    await node.want(id("c"), "failing");
    const gave = await node.reaches(id("c"), ReplicaPhase.GONE);
    expect(gave).toMatchObject({
      goneReason: GoneReason.START_FAILED,
      failure: { code: "notFound", message: "no such model", remedy: "Add it." },
    });
  });
  test("a start that hangs ends at its deadline and leaves no process", async () => {
    await node.want(id("a"), "silent", { startTimeoutMs: 1_000 });
    const gone = await node.reaches(id("a"), ReplicaPhase.GONE);
    expect(gone).toMatchObject({
      goneReason: GoneReason.START_FAILED,
      failure: { code: "deadlineExceeded" },
    });
  });
  test("a worker that ignores every word is killed with its children when its time is over", async () => {
    await node.want(id("a"), "deaf");
    await node.reaches(id("a"), ReplicaPhase.READY);
    const pid = node.pidOf(id("a"));
    const children = () =>
      readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1")
        .trim()
        .split(" ")
        .filter(Boolean)
        .map(Number);
    await expect.poll(() => children().length).toBe(1);
    const family = [pid, ...children()];
    await node.unwant(id("a"), 200);
    const gone = await node.reaches(id("a"), ReplicaPhase.GONE);
    expect(gone.goneReason).toBe(GoneReason.DRAINED);
    expect(family.filter(isAlive)).toEqual([]);
    await expect.poll(() => node.lines(id("a")).map(({ message }) => message)).toContain("ignored SIGTERM");
  });
  test("while the image converter is away a start waits and says why; an image that is not there fails it", async () => {
    await node.converter.stop();
    await node.want(id("a"), "ready");
    await expect.poll(() => node.latest(id("a"))?.failure?.code).toBe("unavailable");
    expect(node.latest(id("a"))?.phase).toBe(ReplicaPhase.PLACED);
    await node.converter.start();
    expect((await node.reaches(id("a"), ReplicaPhase.READY)).failure).toBeUndefined();
    node.converter.fail = new PlatformError("notFound", "no image 'x'", { remedy: "Push it." });
    await node.want(id("b"), "ready");
    const gone = await node.reaches(id("b"), ReplicaPhase.GONE);
    expect(gone).toMatchObject({
      goneReason: GoneReason.START_FAILED,
      failure: { code: "notFound", message: "no image 'x'", remedy: "Push it." },
    });
  });
  test("the platform's worker image is what the node says it is", async () => {
    await node.want(id("a"), "ready", { image: "pilotlight://worker" });
    await node.reaches(id("a"), ReplicaPhase.READY);
    expect(node.converter.asked).toEqual(["oci:///images/worker:1"]);
  });
  test("a stranger is turned away", async () => {
    await node.want(id("a"), "ready");
    await node.reaches(id("a"), ReplicaPhase.READY);
    const agent = grpcClient(NodeAgentService, node.agentAddress, { timeoutMs: 5_000 });
    for (const request of [
      { replicaId: id("a"), token: "guess" },
      { replicaId: "nobody", token: "" },
    ]) {
      async function* reports() {
        yield request;
        await new Promise(() => {});
      }
      await expect(agent.attachWorker(reports())[Symbol.asyncIterator]().next()).rejects.toMatchObject({
        code: "unauthenticated",
      });
    }
    agent.close();
  });
});
