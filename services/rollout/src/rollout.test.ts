// The rollout coordinator as a process on real NATS and PostgreSQL. The test plays control, autoscaler and nodes: a
// small fleet that keeps to the bounds, one replica at a time, and reports what it does.
import {
  type Bus,
  connectBus,
  consumeIdempotent,
  publish,
  publishSample,
  watchDocuments,
} from "@pilotlight/bus";
import {
  ActivationReason,
  type ApplicationSpec,
  ApplicationSpecSchema,
  type BoundsSet,
  create,
  EVENTS,
  GoneReason,
  type MessageInitShape,
  ReplicaPhase,
  type RolloutMoved,
  RolloutPhase,
  RolloutService,
  type TrafficSet,
  timestampFromMs,
} from "@pilotlight/contracts";
import { freePort } from "@pilotlight/servers";
import { grpcClient } from "@pilotlight/service";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  startTestPostgres,
  type TestPostgres,
  type TestServer,
} from "@pilotlight/testing";
import connect from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAIN = new URL("./main.ts", import.meta.url);
let nats: TestServer;
let postgres: TestPostgres;
let bus: Bus;
let service: ServiceProcess;
let environment: Record<string, string>;
const moves: RolloutMoved[] = [];
const traffic = new Map<string, TrafficSet[]>();
const bounds = new Map<string, BoundsSet>();
const fleets = new Map<string, Fleet>();

beforeAll(async () => {
  [nats, postgres] = await Promise.all([startTestNats(), startTestPostgres()]);
  environment = {
    NATS_URL: nats.url,
    POSTGRES_URL: await postgres.database(),
    GRPC_PORT: String(await freePort()),
    LEADER_INTERVAL_MS: "100",
    OUTBOX_SWEEP_INTERVAL_MS: "200",
    COALESCE_MS: "10",
  };
  service = await startServiceProcess(MAIN, environment);
  bus = await connectBus({ url: nats.url, service: "test", connectTimeoutMs: 10_000, streamReplicas: 1 });
  await consumeIdempotent(
    bus,
    { name: "all", from: "beginning" },
    { rolloutMoved: (m) => void moves.push(m) },
  );
  await watchDocuments(bus, EVENTS.trafficSet, {}, (message) => {
    const known = traffic.get(message.application) ?? [];
    traffic.set(message.application, [...known, message]);
    fleets.get(message.application)?.checkTraffic(message);
  });
  await watchDocuments(bus, EVENTS.boundsSet, {}, (message) => {
    bounds.set(message.application, message);
    void fleets.get(message.application)?.follow(message);
  });
});
afterAll(async () => {
  await service.stop();
  await bus.close();
  await nats.stop();
  await postgres.stop();
});

const spec = (application: string, rollout: Record<string, unknown> = {}): ApplicationSpec =>
  create(ApplicationSpecSchema, {
    application,
    deployments: [
      {
        name: "main",
        resources: { accelerators: 1 },
        autoscaling: { replicasMin: 1, replicasMax: 4, targetInFlight: 1 },
        rollout: {
          surge: 1,
          stepIntervalMs: 20,
          crashesMax: 0,
          heartbeatTimeoutMs: 30_000,
          gates: {
            errorRateMax: 0.05,
            errorRatioMax: 1,
            ttftRatioMax: 1.05,
            timePerOutputTokenRatioMax: 1.05,
            samplesMin: 20,
            falseAlarmMax: 0.01,
            unknownPassesAfterMs: 50,
            timeoutMs: 60_000,
          },
          ...rollout,
        },
        startTimeoutMs: 60_000,
        drainTimeoutMs: 60_000,
      },
    ],
  } as MessageInitShape<typeof ApplicationSpecSchema>);

const activate = (
  application: string,
  version: number,
  rollout: Record<string, unknown> = {},
  back = false,
) =>
  publish(bus, EVENTS.versionActivationRequested, {
    application,
    version,
    reason: back ? ActivationReason.ROLLBACK : ActivationReason.DEPLOY,
    spec: spec(application, rollout),
  });
const phases = (application: string, to: number) =>
  moves.filter((one) => one.application === application && one.toVersion === to).map((one) => one.phase);
const ended = (application: string, to: number, phase: RolloutPhase) =>
  expect.poll(() => phases(application, to).at(-1)).toBe(phase);
const weightOf = (application: string, version: number) =>
  traffic
    .get(application)
    ?.at(-1)
    ?.weights.find((one) => one.version === version)?.weight;

/** Replicas that appear and go as the bounds say, up to `most` at a time over all versions. */
class Fleet {
  readonly replicas = new Map<string, { version: number; ready: boolean }>();
  readonly violations: string[] = [];
  readonly application: string;
  readonly size: number;
  most = 0;
  /** Versions whose replicas never get ready. */
  broken = new Set<number>();
  /** Obeys, but does not say so. */
  silent = false;
  #generation = 0n;
  #next = 1;
  #following: Promise<void> = Promise.resolve();

  constructor(application: string, size: number) {
    this.application = application;
    this.size = size;
    fleets.set(application, this);
  }

  follow(message: BoundsSet): Promise<void> {
    this.#following = this.#following.then(() => this.#follow(message));
    return this.#following;
  }

  async #follow(message: BoundsSet): Promise<void> {
    this.#generation = message.generation;
    const wanted = new Map(
      message.versions.map((one) => {
        const bound = one.deployments[0];
        const count = bound?.followsLoad ? this.size : (bound?.replicasMin ?? 0);
        return [one.version, count];
      }),
    );
    const versions = new Set([...wanted.keys(), ...[...this.replicas.values()].map((one) => one.version)]);
    for (const version of versions) {
      const have = [...this.replicas].filter(([, one]) => one.version === version);
      const want = wanted.get(version) ?? 0;
      for (const [id] of have.slice(want)) await this.#stop(id, version);
      for (let i = have.length; i < want; i++) await this.#start(version);
    }
    if (!this.silent) await this.say();
  }

  /** The autoscaler's word. */
  async say(): Promise<void> {
    const held = Map.groupBy(this.replicas.values(), ({ version }) => version);
    await publish(bus, EVENTS.scaleDecided, {
      application: this.application,
      version: 1,
      deployment: "main",
      replicasDemanded: this.size,
      boundsGeneration: this.#generation,
      held: [...held].map(([version, { length: replicas }]) => ({ version, replicas })),
    });
  }

  async #start(version: number): Promise<void> {
    const id = `${this.application}-main-v${version}-${this.#next++}`;
    this.replicas.set(id, { version, ready: false });
    this.most = Math.max(this.most, this.replicas.size);
    await this.#report(id, version, ReplicaPhase.PLACED);
    if (this.broken.has(version)) {
      this.replicas.delete(id);
      await this.#report(id, version, ReplicaPhase.GONE, GoneReason.START_FAILED);
      return;
    }
    this.replicas.set(id, { version, ready: true });
    await this.#report(id, version, ReplicaPhase.READY);
  }

  async #stop(id: string, version: number): Promise<void> {
    await this.#report(id, version, ReplicaPhase.DRAINING);
    this.replicas.delete(id);
    await this.#report(id, version, ReplicaPhase.GONE, GoneReason.DRAINED);
  }

  #report(id: string, version: number, phase: ReplicaPhase, goneReason = GoneReason.UNSPECIFIED) {
    return publish(bus, EVENTS.replicaReported, {
      status: {
        replicaId: id,
        application: this.application,
        version,
        deployment: "main",
        nodeId: "node-1",
        phase,
        marks: [{ phase, at: timestampFromMs(Date.now()) }],
        goneReason,
        ...(goneReason === GoneReason.START_FAILED
          ? { failure: { code: "notFound", message: "the model is not there", remedy: "" } }
          : {}),
      },
    });
  }

  countOf(version: number): number {
    return [...this.replicas.values()].filter((one) => one.version === version).length;
  }

  /** I3: a share of the traffic needs the capacity for it. */
  checkTraffic(message: TrafficSet): void {
    const sum = message.weights.reduce((total, one) => total + one.weight, 0);
    if (message.weights.length > 0 && Math.abs(sum - 1) > 1e-9) this.violations.push(`weights sum to ${sum}`);
    const ready = [...this.replicas.values()].filter((one) => one.ready);
    for (const { version, weight } of message.weights) {
      const share = ready.filter((one) => one.version === version).length / Math.min(this.size, ready.length);
      if (weight > share + 1e-9)
        this.violations.push(`version ${version}: ${weight} of the traffic, ${share} ready`);
    }
  }
}

describe("a first version", () => {
  test("gets the traffic when it is ready, and follows the load then", async () => {
    new Fleet("first", 2);
    await activate("first", 1);
    await ended("first", 1, RolloutPhase.DONE);
    expect(phases("first", 1)[0]).toBe(RolloutPhase.STARTING);
    expect(weightOf("first", 1)).toBe(1);
    await expect
      .poll(() => bounds.get("first")?.versions[0]?.deployments[0])
      .toMatchObject({ followsLoad: true, replicasMin: 1, replicasMax: 4 });
    expect(bounds.get("first")?.versions[0]?.spec?.application).toBe("first");
  });
  test("that does not start is given up, with the reason", async () => {
    const fleet = new Fleet("never", 1);
    fleet.broken.add(1);
    await activate("never", 1);
    await ended("never", 1, RolloutPhase.FAILED);
    expect(moves.findLast((one) => one.application === "never")?.reason).toMatch(/the model is not there/);
    await expect.poll(() => bounds.get("never")?.versions).toEqual([]);
  });
});

describe("the next version", () => {
  test("takes over step by step: traffic never above ready capacity, one replica more at most", async () => {
    const fleet = new Fleet("steps", 3);
    await activate("steps", 1);
    await ended("steps", 1, RolloutPhase.DONE);
    await expect.poll(() => fleet.replicas.size).toBe(3);
    await activate("steps", 2);
    await ended("steps", 2, RolloutPhase.DONE);
    expect(fleet.violations).toEqual([]);
    expect(fleet.most).toBe(4);
    const shares =
      traffic.get("steps")?.map((one) => one.weights.find((w) => w.version === 2)?.weight ?? 0) ?? [];
    expect(shares).toEqual(shares.toSorted((a, b) => a - b));
    expect(new Set(shares).size).toBeGreaterThan(3);
    await expect.poll(() => bounds.get("steps")?.versions.map((one) => one.version)).toEqual([2]);
    const generations = traffic.get("steps")?.map((one) => one.generation) ?? [];
    expect(generations).toEqual(generations.toSorted((a, b) => (a < b ? -1 : 1)));
  });
  test("gets no further replica before the autoscaler has said that it obeyed the last orders", async () => {
    const fleet = new Fleet("late", 3);
    await activate("late", 1);
    await ended("late", 1, RolloutPhase.DONE);
    await expect.poll(() => fleet.replicas.size).toBe(3);
    await activate("late", 2, { stepIntervalMs: 300 });
    await expect.poll(() => fleet.countOf(2)).toBe(1);
    fleet.silent = true;
    await expect.poll(() => fleet.countOf(1)).toBe(2);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(fleet.countOf(2)).toBe(1);
    fleet.silent = false;
    await fleet.say();
    await ended("late", 2, RolloutPhase.DONE);
    expect(fleet.most).toBe(4);
  });
  test("that does not start leaves the old one alone", async () => {
    const fleet = new Fleet("broken", 2);
    await activate("broken", 1);
    await ended("broken", 1, RolloutPhase.DONE);
    fleet.broken.add(2);
    await activate("broken", 2);
    await ended("broken", 2, RolloutPhase.ROLLED_BACK);
    expect(weightOf("broken", 1)).toBe(1);
    await expect.poll(() => bounds.get("broken")?.versions.map((one) => one.version)).toEqual([1]);
    expect(fleet.violations).toEqual([]);
  });
  test("that fails requests is rolled back by its gate", async () => {
    new Fleet("worse", 2);
    await activate("worse", 1);
    await ended("worse", 1, RolloutPhase.DONE);
    await activate("worse", 2, {
      gates: { ...spec("x").deployments[0]?.rollout?.gates, unknownPassesAfterMs: undefined },
    });
    await expect.poll(() => phases("worse", 2)).toContain(RolloutPhase.GATING);
    const answers = setInterval(() => {
      for (const version of [1, 2]) {
        publishSample(bus, EVENTS.requestFinished, {
          application: "worse",
          version,
          deployment: "main",
          status: version === 2 ? 500 : 200,
          ttftMs: 10,
          durationMs: 20,
        });
      }
    }, 5);
    await ended("worse", 2, RolloutPhase.ROLLED_BACK);
    clearInterval(answers);
    expect(moves.findLast((one) => one.application === "worse")?.reason).toMatch(/gateFailed: errorRa/);
    expect(weightOf("worse", 1)).toBe(1);
  });
  test("is undone for a newer one, which then takes over", async () => {
    const fleet = new Fleet("newer", 2);
    await activate("newer", 1);
    await ended("newer", 1, RolloutPhase.DONE);
    await activate("newer", 2, { stepIntervalMs: 60_000 });
    await expect.poll(() => phases("newer", 2)).toContain(RolloutPhase.GATING);
    await activate("newer", 3);
    await ended("newer", 2, RolloutPhase.ROLLED_BACK);
    await ended("newer", 3, RolloutPhase.DONE);
    expect(fleet.violations).toEqual([]);
  });
  test("gives way to the old one when a person asks for it, without gates", async () => {
    new Fleet("back", 2);
    await activate("back", 1);
    await ended("back", 1, RolloutPhase.DONE);
    await activate("back", 2);
    await ended("back", 2, RolloutPhase.DONE);
    const before = moves.length;
    await activate("back", 1, {}, true);
    await expect.poll(() => moves.slice(before).map((one) => one.phase)).toContain(RolloutPhase.DONE);
    expect(moves.slice(before).map((one) => one.phase)).not.toContain(RolloutPhase.GATING);
    expect(weightOf("back", 1)).toBe(1);
  });
});

describe("whatever happens", () => {
  test("a rollout goes on where it was after a kill in the middle", async () => {
    const fleet = new Fleet("killed", 3);
    await activate("killed", 1);
    await ended("killed", 1, RolloutPhase.DONE);
    await activate("killed", 2, { stepIntervalMs: 150 });
    for (let i = 0; i < 3; i++) {
      await expect.poll(() => phases("killed", 2).length).toBeGreaterThan(i + 1);
      await service.kill("SIGKILL");
      service = await startServiceProcess(MAIN, environment);
    }
    await ended("killed", 2, RolloutPhase.DONE);
    expect(fleet.violations).toEqual([]);
    expect(
      new Set(moves.filter((one) => one.application === "killed").map((one) => one.rolloutId)).size,
    ).toBe(2);
  });
  test("a rollout goes on after NATS and PostgreSQL were away", async () => {
    const fleet = new Fleet("away", 2);
    await activate("away", 1);
    await ended("away", 1, RolloutPhase.DONE);
    await activate("away", 2, { stepIntervalMs: 300 });
    await expect.poll(() => phases("away", 2).length).toBeGreaterThan(1);
    await nats.interrupt(1_000);
    await postgres.interrupt(1_000);
    await ended("away", 2, RolloutPhase.DONE);
    expect(fleet.violations).toEqual([]);
  });
  test("a rollout whose stored state cannot be read holds up no other one", async () => {
    new Fleet("torn", 1);
    await activate("torn", 1);
    await ended("torn", 1, RolloutPhase.DONE);
    const sql = connect(environment.POSTGRES_URL ?? "");
    await sql`update rollout.rollout set state = '{"kind": "torn"}' where application = 'torn'`;
    await sql.end();
    await activate("torn", 2);
    new Fleet("whole", 1);
    await activate("whole", 1);
    await ended("whole", 1, RolloutPhase.DONE);
    expect(phases("torn", 2)).toEqual([]);
    const warning = await service.logged(
      (line) => line.component === "stepper" || line.component === "consumer",
    );
    expect(JSON.stringify(warning)).toMatch(/the state of rollout torn-v1-\w+ cannot be read/);
  });
  test("a deleted application loses its traffic and its bounds, and may come back", async () => {
    const fleet = new Fleet("deleted", 1);
    await activate("deleted", 1);
    await ended("deleted", 1, RolloutPhase.DONE);
    await publish(bus, EVENTS.applicationDeleted, { application: "deleted" });
    await expect.poll(() => bounds.get("deleted")?.versions).toEqual([]);
    await expect.poll(() => traffic.get("deleted")?.at(-1)?.weights).toEqual([]);
    await expect.poll(() => fleet.replicas.size).toBe(0);
    await activate("deleted", 2);
    await ended("deleted", 2, RolloutPhase.DONE);
    expect(weightOf("deleted", 2)).toBe(1);
  });
  test("the story of each rollout can be asked for", async () => {
    const client = grpcClient(RolloutService, `127.0.0.1:${environment.GRPC_PORT}`, { timeoutMs: 5_000 });
    const { rollouts } = await client.listRollouts({ application: "steps" });
    client.close();
    expect(rollouts.map((one) => one.last?.toVersion)).toEqual([2, 1]);
    expect(rollouts[0]?.steps[0]?.phase).toBe(RolloutPhase.STARTING);
    expect(rollouts[0]?.steps.at(-1)?.phase).toBe(RolloutPhase.DONE);
    expect(rollouts[0]?.endedAt).toBeDefined();
  });
});
