// The autoscaler as a process on real NATS and PostgreSQL. The test plays rollout (bounds), gateways (load samples) and
// nodes: agents that do what they are told and report it.
import {
  type Bus,
  connectBus,
  consumeIdempotent,
  publish,
  publishSample,
  type Subscription,
  watchDocuments,
} from "@pilotlight/bus";
import {
  AutoscalerService,
  EVENTS,
  GoneReason,
  type MessageInitShape,
  type NodeLost,
  ReplicaPhase,
  type ReplicaStatusSchema,
  type ReplicaWanted,
  type ScaleDecided,
  timestampFromMs,
} from "@pilotlight/contracts";
import { freePort } from "@pilotlight/servers";
import { type GrpcClient, grpcClient } from "@pilotlight/service";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  startTestPostgres,
  type TestPostgres,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

const MAIN = new URL("./main.ts", import.meta.url);
let nats: TestServer;
let postgres: TestPostgres;
let bus: Bus;
let service: ServiceProcess;
let environment: Record<string, string>;
let client: GrpcClient<typeof AutoscalerService>;
const decided: ScaleDecided[] = [];
const lost: NodeLost[] = [];
const lastReports = new Map<string, { phase: ReplicaPhase; goneReason: GoneReason }>();
const agents: Agent[] = [];
const gateways: NodeJS.Timeout[] = [];

beforeAll(async () => {
  [nats, postgres] = await Promise.all([startTestNats(), startTestPostgres()]);
  environment = {
    NATS_URL: nats.url,
    POSTGRES_URL: await postgres.database(),
    GRPC_PORT: String(await freePort()),
    LEADER_INTERVAL_MS: "100",
    OUTBOX_SWEEP_INTERVAL_MS: "200",
    COALESCE_MS: "10",
    LOAD_STALE_AFTER_MS: "1000",
    LOAD_FORGET_AFTER_MS: "5000",
    NODE_SILENT_AFTER_MS: "400",
    NODE_LOST_AFTER_MS: "900",
    ORDER_TIMEOUT_MS: "1500",
    START_BACKOFF_MS: "100",
    START_BACKOFF_MS_MAX: "300",
    RECORD_UNCHANGED_INTERVAL_MS: "60000",
  };
  service = await startServiceProcess(MAIN, environment);
  client = grpcClient(AutoscalerService, `127.0.0.1:${environment.GRPC_PORT}`, { timeoutMs: 5_000 });
  bus = await connectBus({ url: nats.url, service: "test", connectTimeoutMs: 10_000, streamReplicas: 1 });
  await consumeIdempotent(
    bus,
    { name: "all", from: "beginning" },
    { scaleDecided: (m) => void decided.push(m), nodeLost: (m) => void lost.push(m) },
  );
  await watchDocuments(bus, EVENTS.replicaReported, {}, ({ status }) => {
    if (status !== undefined) lastReports.set(status.replicaId, status);
  });
});
afterEach(async () => {
  for (const gateway of gateways.splice(0)) clearInterval(gateway);
  // What is left over would move to the next test's nodes.
  for (const application of wanted) await setBounds(application);
  wanted.clear();
  await expect.poll(() => agents.filter((agent) => !agent.deaf && agent.replicas.size > 0)).toEqual([]);
  for (const agent of agents.splice(0)) await agent.leave();
});
afterAll(async () => {
  client.close();
  await service.stop();
  await bus.close();
  await nats.stop();
  await postgres.stop();
});

type Status = MessageInitShape<typeof ReplicaStatusSchema>;

/** A node whose replicas are ready at once, or fail as they are told to. */
class Agent {
  readonly nodeId: string;
  readonly replicas = new Map<string, Status>();
  readonly orders: ReplicaWanted[] = [];
  failing = false;
  /** Takes orders, but neither acts nor reports. */
  deaf = false;
  #beat: NodeJS.Timeout | undefined;
  #subscription: Subscription | undefined;

  constructor(nodeId: string) {
    this.nodeId = nodeId;
    agents.push(this);
  }

  async join(size: { accelerators: number; memoryMib?: number }): Promise<this> {
    const beat = () =>
      publishSample(bus, EVENTS.nodeReported, {
        nodeId: this.nodeId,
        acceleratorKind: "cpu",
        accelerators: size.accelerators,
        memoryMib: size.memoryMib ?? 65_536,
        replicas: [...this.replicas.keys()].map((replicaId) => ({ replicaId })),
      });
    beat();
    this.#beat = setInterval(beat, 50);
    this.#subscription = await consumeIdempotent(
      bus,
      { name: this.nodeId, from: "beginning", keys: { node: this.nodeId } },
      {
        replicaWanted: async (message) => {
          this.orders.push(message);
          if (!this.deaf) await this.#start(message);
        },
        replicaUnwanted: ({ replicaId }) => this.end(replicaId, GoneReason.DRAINED),
      },
    );
    return this;
  }

  async #start({ assignment }: ReplicaWanted): Promise<void> {
    if (assignment === undefined || this.replicas.has(assignment.replicaId)) return;
    const { replicaId, application, version, deployment } = assignment;
    this.replicas.set(replicaId, {
      replicaId,
      application,
      version,
      deployment: deployment?.name ?? "",
      nodeId: this.nodeId,
      resources: deployment?.resources ?? {},
    });
    await this.#report(replicaId, ReplicaPhase.PLACED);
    if (this.failing) await this.end(replicaId, GoneReason.START_FAILED);
    else await this.#report(replicaId, ReplicaPhase.READY);
  }

  async end(replicaId: string, goneReason: GoneReason): Promise<void> {
    if (!this.replicas.has(replicaId)) return;
    await this.#report(replicaId, ReplicaPhase.GONE, goneReason);
    this.replicas.delete(replicaId);
  }

  async #report(replicaId: string, phase: ReplicaPhase, goneReason = GoneReason.UNSPECIFIED): Promise<void> {
    const status = this.replicas.get(replicaId);
    const marks = [...(status?.marks ?? []), { phase, at: timestampFromMs(Date.now()) }];
    const next = { ...status, phase, marks, goneReason } as Status;
    this.replicas.set(replicaId, next);
    await publish(bus, EVENTS.replicaReported, { status: next });
  }

  /** The machine is gone: no report, no answer. */
  vanish(): void {
    clearInterval(this.#beat);
    this.#beat = undefined;
    this.deaf = true;
  }

  async leave(): Promise<void> {
    this.vanish();
    // Nothing of the next test is to come here in the time until the silence is noticed.
    publishSample(bus, EVENTS.nodeReported, { nodeId: this.nodeId, cordoned: true });
    await this.#subscription?.close();
  }

  of(application: string): string[] {
    return [...this.replicas.values()]
      .filter((one) => one.application === application && one.phase === ReplicaPhase.READY)
      .map((one) => one.replicaId ?? "");
  }
}

type Scaling = {
  replicasMin?: number;
  replicasMax?: number;
  scaleDownDelayMs?: number;
  accelerators?: number;
};
let generation = 1n;
const versionBounds = (application: string, version: number, scaling: Scaling, fixed?: number) => ({
  version,
  spec: {
    application,
    deployments: [
      {
        name: "main",
        resources: { accelerators: scaling.accelerators ?? 0.25, memoryMib: 64 },
        autoscaling: {
          replicasMin: scaling.replicasMin ?? 1,
          replicasMax: scaling.replicasMax ?? 4,
          targetInFlight: 2,
          scaleDownDelayMs: scaling.scaleDownDelayMs ?? 500,
          scaleToZeroDelayMs: 500,
        },
        model: { source: "file:///models/m", name: application },
        drainTimeoutMs: 1_000,
      },
    ],
  },
  deployments: [
    {
      deployment: "main",
      replicasMin: fixed ?? scaling.replicasMin ?? 1,
      replicasMax: fixed ?? scaling.replicasMax ?? 4,
      followsLoad: fixed === undefined,
    },
  ],
});
const wanted = new Set<string>();
const setBounds = (application: string, ...versions: ReturnType<typeof versionBounds>[]) => {
  wanted.add(application);
  return publish(bus, EVENTS.boundsSet, { application, generation: generation++, versions });
};
const follow = (application: string, scaling: Scaling = {}) =>
  setBounds(application, versionBounds(application, 1, scaling));

/** A gateway that says the same every 50 ms until it is told otherwise. */
function gateway(application: string, load: { inFlight: number; queued?: number; version?: number }) {
  const current = { ...load };
  const timer = setInterval(
    () =>
      publishSample(bus, EVENTS.loadSampled, {
        gatewayId: "gateway-1",
        application,
        deployment: "main",
        version: current.version ?? 1,
        inFlight: current.inFlight,
        queued: current.queued ?? 0,
        at: timestampFromMs(Date.now()),
      }),
    50,
  );
  gateways.push(timer);
  return { current, stop: () => clearInterval(timer) };
}
const settled = (count: () => number, expected: number) => expect.poll(count).toBe(expected);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe("load", () => {
  test("replicas follow it up at once and down after the delay", async () => {
    const node = await new Agent("n-load").join({ accelerators: 4 });
    await follow("load");
    await settled(() => node.of("load").length, 1);
    const { current } = gateway("load", { inFlight: 6 });
    await settled(() => node.of("load").length, 3);
    current.inFlight = 1;
    const loweredAt = Date.now();
    await settled(() => node.of("load").length, 1);
    expect(Date.now() - loweredAt).toBeGreaterThan(450);
    expect(decided.filter((one) => one.application === "load").map((one) => one.replicasWanted)).toEqual(
      expect.arrayContaining([1, 3]),
    );
    const assignment = node.orders[0]?.assignment;
    expect(assignment).toMatchObject({ application: "load", version: 1, nodeId: "n-load" });
    expect(assignment?.replicaId).toMatch(/^load-main-v1-1[0-9a-f]{6}$/);
    expect(assignment?.deployment?.model?.source).toBe("file:///models/m");
  });
  test("unknown load takes nothing away", async () => {
    const node = await new Agent("n-unknown").join({ accelerators: 4 });
    await follow("unknown", { scaleDownDelayMs: 100 });
    const { stop } = gateway("unknown", { inFlight: 6 });
    await settled(() => node.of("unknown").length, 3);
    stop();
    await pause(1_500); // far beyond the delay, and beyond the age at which samples count
    expect(node.of("unknown")).toHaveLength(3);
  });
  test("requests that wait for a version bring the first replica from zero", async () => {
    const node = await new Agent("n-zero").join({ accelerators: 4 });
    await follow("zero", { replicasMin: 0 });
    const { current } = gateway("zero", { inFlight: 0, queued: 0, version: 0 });
    await pause(200);
    expect(node.of("zero")).toHaveLength(0);
    current.queued = 1;
    await settled(() => node.of("zero").length, 1);
    current.queued = 0;
    await settled(() => node.of("zero").length, 0);
  });
});

describe("replicas", () => {
  test("one that crashed is replaced", async () => {
    const node = await new Agent("n-crash").join({ accelerators: 4 });
    await follow("crash");
    await settled(() => node.of("crash").length, 1);
    const [first = ""] = node.of("crash");
    await node.end(first, GoneReason.CRASHED);
    await settled(() => node.of("crash").length, 1);
    expect(node.of("crash")).not.toContain(first);
  });
  test("those that fail to start are tried again, ever more slowly", async () => {
    const node = await new Agent("n-fail").join({ accelerators: 4 });
    node.failing = true;
    await follow("fail");
    await settled(() => Math.min(3, node.orders.length), 3);
    node.failing = false;
    await settled(() => node.of("fail").length, 1);
  });
  test("of two versions stay within their bounds, and of a retired one none is left", async () => {
    const node = await new Agent("n-bounds").join({ accelerators: 8 });
    await setBounds("bounds", versionBounds("bounds", 1, {}, 2), versionBounds("bounds", 2, {}, 1));
    await settled(() => node.of("bounds").length, 3);
    const { current } = gateway("bounds", { inFlight: 6 });
    await expect
      .poll(() => decided.findLast((one) => one.application === "bounds")?.replicasDemanded)
      .toBe(3);
    expect(node.of("bounds")).toHaveLength(3);
    current.inFlight = 0;
    await setBounds("bounds", versionBounds("bounds", 2, {}, 1));
    await settled(() => node.of("bounds").length, 1);
    expect(node.of("bounds")[0]).toMatch(/-v2-/);
    await setBounds("bounds");
    await settled(() => node.of("bounds").length, 0);
  });
  test("that wait for a place get it as soon as a node has room", async () => {
    const small = await new Agent("n-small").join({ accelerators: 1 });
    await follow("room", { replicasMin: 2, accelerators: 1 });
    await settled(() => small.of("room").length, 1);
    await expect
      .poll(() => decided.findLast((one) => one.application === "room")?.reason)
      .toMatch(/no place: 1 accelerators and 64 MiB of memory needed; of \d+ nodes/);
    const other = await new Agent("n-other").join({ accelerators: 1 });
    await settled(() => other.of("room").length, 1);
    expect(small.orders).toHaveLength(1);
    expect(small.orders[0]?.assignment?.deviceIndexes).toEqual([0]);
  });
  test("that a node holds without an order are taken over", async () => {
    const node = await new Agent("n-adopt").join({ accelerators: 4 });
    const status: Status = {
      replicaId: "adopt-main-v1-old",
      application: "adopt",
      version: 1,
      deployment: "main",
      nodeId: "n-adopt",
      phase: ReplicaPhase.READY,
      marks: [{ phase: ReplicaPhase.READY, at: timestampFromMs(Date.now()) }],
      resources: { accelerators: 0.25, memoryMib: 64 },
    };
    node.replicas.set("adopt-main-v1-old", status);
    await publish(bus, EVENTS.replicaReported, { status });
    await pause(200);
    // Nothing of this application is wanted: it has to go.
    await settled(() => node.of("adopt").length, 0);
  });
});

describe("nodes", () => {
  test("a lost one is said to be lost, its replicas are gone and start elsewhere", async () => {
    const first = await new Agent("n-lost-a").join({ accelerators: 1 });
    await follow("nodes", { accelerators: 1 });
    await settled(() => first.of("nodes").length, 1);
    const [replicaId = ""] = first.of("nodes");
    const second = await new Agent("n-lost-b").join({ accelerators: 1 });
    first.vanish();
    await settled(() => second.of("nodes").length, 1);
    expect(lost.map((one) => one.nodeId)).toContain("n-lost-a");
    await expect
      .poll(() => lastReports.get(replicaId))
      .toMatchObject({ phase: ReplicaPhase.GONE, goneReason: GoneReason.NODE_LOST });
    const { nodes } = await client.listNodes({});
    expect(nodes.find((node) => node.report?.nodeId === "n-lost-a")?.lost).toBe(true);
    expect(nodes.find((node) => node.report?.nodeId === "n-lost-b")?.lost).toBe(false);
  });
  test("an order that its node never heard of is given up and given again", async () => {
    const node = await new Agent("n-deaf").join({ accelerators: 4 });
    node.deaf = true;
    await follow("deaf");
    await settled(() => Math.min(1, node.orders.length), 1);
    node.deaf = false;
    await settled(() => node.of("deaf").length, 1);
    expect(node.orders.length).toBe(2);
  });
});

describe("whatever happens", () => {
  test("a kill in the middle neither loses nor doubles a replica", async () => {
    const node = await new Agent("n-killed").join({ accelerators: 8 });
    await follow("killed", { replicasMax: 4, scaleDownDelayMs: 60_000 });
    gateway("killed", { inFlight: 8 });
    await settled(() => Math.min(1, node.orders.length), 1);
    await service.kill("SIGKILL");
    service = await startServiceProcess(MAIN, environment);
    await settled(() => node.of("killed").length, 4);
    await pause(500);
    expect(node.orders.filter((one) => one.assignment?.application === "killed")).toHaveLength(4);
  });
  test("while NATS or PostgreSQL is away no node is lost, and afterwards it goes on", async () => {
    const node = await new Agent("n-away").join({ accelerators: 8 });
    await follow("away", { scaleDownDelayMs: 60_000 });
    await settled(() => node.of("away").length, 1);
    const { current } = gateway("away", { inFlight: 1 });
    await nats.interrupt(1_500);
    current.inFlight = 4;
    await settled(() => node.of("away").length, 2);
    await postgres.interrupt(1_500);
    current.inFlight = 6;
    await settled(() => node.of("away").length, 3);
    expect(lost.map((one) => one.nodeId)).not.toContain("n-away");
    expect(node.orders).toHaveLength(3);
  });
  test("every decision can be replayed", async () => {
    const { decisions } = await client.listDecisions({ application: "load", limit: 100 });
    expect(decisions.length).toBeGreaterThan(2);
    for (const { decisionId } of decisions) {
      expect((await client.replayDecision({ decisionId })).identical).toBe(true);
    }
    const at = decisions.map((one) => Number(one.at?.seconds ?? 0n));
    expect(at).toEqual(at.toSorted((a, b) => b - a));
    await expect(client.replayDecision({ decisionId: "none" })).rejects.toMatchObject({ code: "notFound" });
  });
});
