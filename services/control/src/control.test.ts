// Control as a process on real NATS and PostgreSQL, used through its HTTP door and the bus.
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, connectBus, consumeIdempotent, publish, publishSample } from "@pilotlight/bus";
import {
  ActivationReason,
  EVENTS,
  ReplicaPhase,
  RolloutPhase,
  timestampFromMs,
  type VersionActivationRequested,
} from "@pilotlight/contracts";
import { type ControlClient, controlClient } from "@pilotlight/control-api";
import { freePort } from "@pilotlight/servers";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  startTestPostgres,
  type TestPostgres,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAIN = new URL("./main.ts", import.meta.url);
let nats: TestServer;
let postgres: TestPostgres;
let bus: Bus;
let service: ServiceProcess;
let environment: Record<string, string>;
let url: string;
let client: ControlClient;
const requested: VersionActivationRequested[] = [];
const heard: { name: string; application: string }[] = [];
const wantedImages: string[] = [];

beforeAll(async () => {
  [nats, postgres] = await Promise.all([startTestNats(), startTestPostgres()]);
  const httpPort = await freePort();
  url = `http://127.0.0.1:${httpPort}`;
  environment = {
    NATS_URL: nats.url,
    POSTGRES_URL: await postgres.database(),
    HTTP_PORT: String(httpPort),
    WORKER_IMAGE: "oci:///images/worker:1",
    BUCKET_URI: "s3://models-bucket/prefix?endpoint=http://127.0.0.1:9000",
    // Nobody listens there: what control can do without its peers is what these tests are about.
    AUTOSCALER_ADDRESS: "127.0.0.1:1",
    ROLLOUT_ADDRESS: "127.0.0.1:1",
    LOGS_ADDRESS: "127.0.0.1:1",
    IMAGE_CONVERTER_ADDRESS: "127.0.0.1:1",
    PEER_TIMEOUT_MS: "500",
    OUTBOX_SWEEP_INTERVAL_MS: "200",
  };
  service = await startServiceProcess(MAIN, environment);
  client = controlClient({ url, timeoutMs: 10_000 });
  bus = await connectBus({ url: nats.url, service: "test", connectTimeoutMs: 10_000, streamReplicas: 1 });
  await consumeIdempotent(
    bus,
    { name: "all", from: "beginning" },
    {
      versionActivationRequested: (message) => void requested.push(message),
      versionCreated: ({ application }) => void heard.push({ name: "versionCreated", application }),
      applicationDeleted: ({ application }) => void heard.push({ name: "applicationDeleted", application }),
      imageWanted: ({ image }) => void wantedImages.push(image),
    },
  );
});
afterAll(async () => {
  await service.stop();
  await bus.close();
  await nats.stop();
  await postgres.stop();
});

const file = (application: string, extra: { release?: string; model?: string } = {}) => `
application: ${application}
deployments:
  - name: main
    image: pilotlight://worker
    model:
      source: bucket://models/${application}
      name: ${extra.model ?? application}
      task: chat
    engine: { kind: embedded }
    environment: { RELEASE: "${extra.release ?? "1"}" }
`;
const deploy = (text: string, dryRun = false) => client.deploy(text, { dryRun });
const requestsFor = (application: string) => requested.filter((one) => one.application === application);
const moved = (application: string, from: number, to: number, phase: RolloutPhase, traffic = 1) =>
  publish(bus, EVENTS.rolloutMoved, {
    rolloutId: `${application}-${to}-${from}`,
    application,
    fromVersion: from,
    toVersion: to,
    phase,
    traffic,
    reason: "test",
  });
const serving = (application: string, version: number | null) =>
  expect.poll(async () => (await client.application(application)).servingVersion).toBe(version);
const replicaReport = (application: string, replicaId: string, phases: ReplicaPhase[], startAt: number) =>
  publish(bus, EVENTS.replicaReported, {
    status: {
      replicaId,
      application,
      version: 1,
      deployment: "main",
      nodeId: "node-1",
      phase: phases.at(-1) ?? ReplicaPhase.DECIDED,
      marks: phases.map((phase, index) => ({ phase, at: timestampFromMs(startAt + index * 100) })),
      endpoint: "http://127.0.0.1:1234",
      resources: { accelerators: 0.5, memoryMib: 1024 },
    },
  });

describe("deploying", () => {
  test("a new file becomes version 1 and is asked for, with the bucket's real address", async () => {
    const result = await deploy(file("one"));
    expect(result).toMatchObject({ outcome: "created", version: 1, replaces: null, dryRun: false });
    await expect.poll(() => requestsFor("one")).toHaveLength(1);
    const [request] = requestsFor("one");
    expect(request?.reason).toBe(ActivationReason.DEPLOY);
    expect(request?.spec?.deployments[0]?.model?.source).toBe(
      "s3://models-bucket/prefix/models/one?endpoint=http://127.0.0.1:9000",
    );
    expect(request?.spec?.deployments[0]?.engine?.kind.case).toBe("embedded");
    expect(request?.spec?.deployments[0]?.rollout?.gates?.samplesMin).toBe(20);
    expect(heard).toContainEqual({ name: "versionCreated", application: "one" });
    expect(wantedImages).toContain("oci:///images/worker:1");
    expect(request?.spec?.deployments[0]?.image).toBe("pilotlight://worker");
  });
  test("the same file again changes nothing, even in another order and with comments", async () => {
    await deploy(file("same"));
    const again = await deploy(`# hello\n${file("same")}`);
    expect(again).toMatchObject({ outcome: "unchanged", version: 1 });
    await expect.poll(() => requestsFor("same")).toHaveLength(1);
  });
  test("another file becomes the next version and says what changed", async () => {
    await deploy(file("next"));
    const planned = await deploy(file("next", { release: "2" }), true);
    expect(planned).toMatchObject({ outcome: "created", version: 2, dryRun: true });
    const result = await deploy(file("next", { release: "2" }));
    expect(result).toMatchObject({ outcome: "created", version: 2, replaces: 1 });
    expect(result.changes).toEqual([
      {
        kind: "changed",
        deployment: "main",
        path: "environment.RELEASE",
        before: '"1"',
        after: '"2"',
        needsNewReplicas: true,
      },
    ]);
  });
  test("two at once become two versions", async () => {
    const results = await Promise.all([
      deploy(file("race", { release: "a" })),
      deploy(file("race", { release: "b" })),
    ]);
    expect(results.map((result) => result.version).sort()).toEqual([1, 2]);
  });
  test("every problem of a file comes back with line and column", async () => {
    const bad = "application: Bad Name\ndeployments:\n  - name: main\n    imagee: x\n";
    const error = await deploy(bad).catch((thrown) => thrown);
    expect(error.code).toBe("invalidArgument");
    expect(error.problems).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ line: 1, path: "application" }),
        expect.objectContaining({ line: 4, column: 5, remedy: 'Did you mean "image"?' }),
      ]),
    );
  });
  test("a model name that another application answers to is refused", async () => {
    await deploy(file("first", { model: "shared-name" }));
    await expect(deploy(file("second", { model: "shared-name" }))).rejects.toMatchObject({
      code: "alreadyExists",
      field: "deployments.model.name",
    });
  });
  test("what was accepted is said though the process was killed", async () => {
    await deploy(file("killed"));
    await service.kill("SIGKILL");
    service = await startServiceProcess(MAIN, environment);
    await expect.poll(() => requestsFor("killed").length).toBeGreaterThan(0);
    expect((await client.application("killed")).wantedVersion).toBe(1);
  });
});

describe("rolling back", () => {
  test("without a number the version that served before comes back", async () => {
    await deploy(file("back"));
    await expect(client.rollback("back", undefined)).rejects.toMatchObject({ code: "preconditionFailed" });
    await moved("back", 0, 1, RolloutPhase.DONE);
    await serving("back", 1);
    await deploy(file("back", { release: "2" }));
    await moved("back", 1, 2, RolloutPhase.DONE);
    await serving("back", 2);
    expect(await client.rollback("back", undefined)).toEqual({
      application: "back",
      version: 1,
      replaces: 2,
    });
    await expect.poll(() => requestsFor("back").at(-1)?.reason).toBe(ActivationReason.ROLLBACK);
    await expect(client.rollback("back", 9)).rejects.toMatchObject({ code: "notFound", field: "version" });
  });
  test("a rollout that was undone leaves the old version wanted, and the file may be deployed again", async () => {
    await deploy(file("undone"));
    await moved("undone", 0, 1, RolloutPhase.DONE);
    await serving("undone", 1);
    await deploy(file("undone", { release: "2" }));
    await moved("undone", 1, 2, RolloutPhase.STARTING, 0);
    await moved("undone", 1, 2, RolloutPhase.ROLLED_BACK, 0);
    await expect.poll(async () => (await client.application("undone")).wantedVersion).toBe(1);
    const { rollout } = await client.application("undone");
    expect(rollout?.steps.map((step) => step.phase)).toEqual(["starting", "rolledBack"]);
    expect(rollout?.endedAt).not.toBeNull();
    expect(await deploy(file("undone", { release: "2" }))).toMatchObject({ outcome: "created", version: 3 });
  });
});

describe("deleting", () => {
  test("a deleted application is said to be gone, and its version numbers are not given again", async () => {
    await deploy(file("gone"));
    await client.deleteApplication("gone");
    await expect.poll(() => heard).toContainEqual({ name: "applicationDeleted", application: "gone" });
    await expect(client.application("gone")).rejects.toMatchObject({ code: "notFound" });
    await expect(client.deleteApplication("gone")).rejects.toMatchObject({ code: "notFound" });
    expect(await deploy(file("gone"))).toMatchObject({ outcome: "created", version: 2, replaces: null });
  });
});

describe("the read model", () => {
  const COLD_START = [
    ReplicaPhase.DECIDED,
    ReplicaPhase.PLACED,
    ReplicaPhase.IMAGE_USABLE,
    ReplicaPhase.READY,
  ];
  test("replicas are shown with their cold start, and stay in the history when they are gone", async () => {
    await deploy(file("shown"));
    await replicaReport("shown", "shown-main-v1-a", COLD_START, 1_000_000);
    await expect.poll(async () => (await client.application("shown")).deployments[0]?.ready).toBe(1);
    const waterfall = await client.waterfall("shown-main-v1-a");
    expect(waterfall.totalMs).toBe(300);
    expect(waterfall.rows.map((row) => [row.phase, row.durationMs])).toEqual([
      ["decided", 0],
      ["placed", 100],
      ["imageUsable", 100],
      ["ready", 100],
    ]);
    await replicaReport("shown", "shown-main-v1-a", [...COLD_START, ReplicaPhase.GONE], 1_000_000);
    await expect.poll(async () => (await client.application("shown")).deployments[0]?.ready).toBe(0);
    expect((await client.replica("shown-main-v1-a")).phase).toBe("gone");
    expect(await client.waterfalls("shown")).toHaveLength(1);
  });
  test("a lost node takes its replicas along", async () => {
    await deploy(file("lonely"));
    await replicaReport("lonely", "lonely-main-v1-a", COLD_START, 2_000_000);
    await expect.poll(async () => (await client.application("lonely")).deployments[0]?.ready).toBe(1);
    publishSample(bus, EVENTS.nodeReported, { nodeId: "node-1", accelerators: 2, memoryMib: 4096 });
    await expect.poll(async () => (await client.nodes())[0]?.state).toBe("alive");
    await publish(bus, EVENTS.nodeLost, { nodeId: "node-1" });
    await expect.poll(async () => (await client.application("lonely")).deployments[0]?.ready).toBe(0);
    expect((await client.replica("lonely-main-v1-a")).goneReason).toBe("nodeLost");
    expect((await client.nodes())[0]?.state).toBe("lost");
  });
  test("an image can be converted ahead", async () => {
    expect(await client.convertImage("oci:///images/other:1")).toMatchObject({ state: "wanted" });
    await expect.poll(() => wantedImages).toContain("oci:///images/other:1");
    await publish(bus, EVENTS.imageFailed, {
      image: "oci:///images/other:1",
      platform: "linux/amd64",
      failure: { code: "notFound", message: "not there", remedy: "" },
    });
    await expect
      .poll(async () => (await client.images()).find((one) => one.image === "oci:///images/other:1"))
      .toMatchObject({ state: "failed", failure: { code: "notFound" } });
    await expect(client.convertImage("worker")).rejects.toMatchObject({ code: "invalidArgument" });
  });
  test("traffic, decisions about scale, images and weights are shown", async () => {
    await deploy(file("glance"));
    await publish(bus, EVENTS.trafficSet, {
      application: "glance",
      generation: 1n,
      weights: [{ version: 1, weight: 1 }],
    });
    await publish(bus, EVENTS.scaleDecided, {
      decisionId: "d1",
      application: "glance",
      version: 1,
      deployment: "main",
      replicasWanted: 3,
      reason: "moreLoad",
    });
    await publish(bus, EVENTS.imageReady, {
      image: "pilotlight://worker",
      platform: "linux/amd64",
      manifestDigest: "sha256:00",
      storedBytes: 123n,
    });
    publishSample(bus, EVENTS.weightsProgressed, {
      nodeId: "node-1",
      source: "file:///m",
      bytesDone: 5n,
      bytesTotal: 10n,
    });
    await expect
      .poll(async () => (await client.application("glance")).deployments[0])
      .toMatchObject({ wanted: 3, reason: "moreLoad" });
    await expect
      .poll(async () => (await client.application("glance")).traffic)
      .toEqual([{ version: 1, weight: 1 }]);
    await expect
      .poll(async () => (await client.images()).find((one) => one.image === "pilotlight://worker"))
      .toMatchObject({ state: "ready", storedBytes: 123 });
    await expect
      .poll(async () => (await client.weights()).find((one) => one.source === "file:///m"))
      .toMatchObject({ state: "loading", progress: { bytesDone: 5, bytesTotal: 10 } });
  });
});

describe("without NATS and PostgreSQL for a while", () => {
  test("what was accepted is said afterwards, and the API answers again", async () => {
    await Promise.all([
      nats.interrupt(1_500),
      // Without NATS a deployment is accepted; it is said when NATS is back.
      deploy(file("away")).then((result) => expect(result.outcome).toBe("created")),
    ]);
    await expect.poll(() => requestsFor("away")).toHaveLength(1);
    await postgres.interrupt(1_000);
    await expect
      .poll(() => client.application("away").catch((error: Error) => error))
      .toMatchObject({ wantedVersion: 1 });
    await moved("away", 0, 1, RolloutPhase.DONE);
    await serving("away", 1);
  });
});

describe("without its peers", () => {
  test("the status shows them as unknown, with the reason, and everything else", async () => {
    const status = await client.status();
    expect(status.peers).toHaveLength(4);
    expect(
      status.peers.every((peer) => peer.state === "unknown" && /ECONNREFUSED/.test(peer.why ?? "")),
    ).toBe(true);
    expect(status.applications.length).toBeGreaterThan(0);
  });
  test("only what needs them fails, and says who is missing", async () => {
    await expect(client.decisions({})).rejects.toThrow(/AutoscalerService at 127.0.0.1:1/);
    const lines = client.logs({ application: "one" });
    await expect(lines.next()).rejects.toThrow(/LogsService at 127.0.0.1:1/);
  });
});

describe("the API", () => {
  test("events are shown as they happen, decoded", async () => {
    const abort = new AbortController();
    const events = client.events("pl.evt.v1.control.>", abort.signal);
    const first = events.next();
    await new Promise((resolve) => setTimeout(resolve, 100)); // the subscription must be there before the event
    await deploy(file("tailed"));
    const { value } = await first;
    expect(value).toMatchObject({ type: "versionCreated", data: { application: "tailed", version: 1 } });
    abort.abort();
    await expect(client.events("$SYS.>").next()).rejects.toMatchObject({ code: "invalidArgument" });
  });
  test("it describes itself", async () => {
    const document = (await (await fetch(`${url}/v1/openapi.json`)).json()) as {
      openapi: string;
      paths: Record<string, unknown>;
    };
    expect(document.openapi).toBe("3.1.0");
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining(["/v1/applications", "/v1/status", "/v1/logs"]),
    );
  });
  test("beyond loopback it is refused without a token", async () => {
    await expect(
      startServiceProcess(MAIN, { ...environment, HTTP_HOST: "0.0.0.0", HTTP_PORT: "0" }),
    ).rejects.toThrow(/without a token/);
  });
  test("with a token nobody gets in without it", async () => {
    const port = String(await freePort());
    const file = join(await mkdtemp(join(tmpdir(), "control-")), "token");
    await writeFile(file, "secret\n");
    const guarded = await startServiceProcess(MAIN, {
      ...environment,
      HTTP_PORT: port,
      API_TOKEN_FILE: file,
    });
    const at = `http://127.0.0.1:${port}`;
    await expect(controlClient({ url: at, timeoutMs: 5_000 }).status()).rejects.toMatchObject({
      code: "unauthenticated",
    });
    await controlClient({ url: at, timeoutMs: 5_000, token: "secret" }).nodes();
    await guarded.stop();
  });
});
