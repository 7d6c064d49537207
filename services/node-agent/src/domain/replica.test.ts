import { create, ReplicaAssignmentSchema, ReplicaPhase } from "@pilotlight/contracts";
import { seededRandom, seeds } from "@pilotlight/testing";
import { describe, expect, test } from "vitest";
import {
  phaseOf,
  placeReplica,
  type Replica,
  type ReplicaInput,
  refuseReplica,
  step,
  wakeAt,
  wasReady,
} from "./replica.ts";
import { misfit } from "./resources.ts";
import { statusOf } from "./status.ts";

const LIMITS = { killTimeoutMs: 100, drainGraceMs: 10 };
const IMAGE = { reference: "img", imageId: "i", manifestDigest: "sha256:0" };
const PROCESS = { pid: 7, startTicks: 1, bootId: "b" };
const assignment = (over: Record<string, unknown> = {}) =>
  create(ReplicaAssignmentSchema, {
    replicaId: "chat-main-v1-x",
    application: "chat",
    version: 1,
    nodeId: "n",
    deployment: {
      name: "main",
      startTimeoutMs: 1_000,
      drainTimeoutMs: 500,
      resources: { accelerators: 1, memoryMib: 100 },
    },
    ...over,
  });
const report = (phase: ReplicaPhase, more: object = {}): ReplicaInput => ({
  kind: "reported",
  report: {
    phase,
    marks: [{ phase: ReplicaPhase.PROCESS_UP, at: 5 }],
    endpoint: "http://h:1",
    inFlightMax: 8,
    ...more,
  },
});
const run = (
  inputs: readonly (ReplicaInput | [number, ReplicaInput])[],
  from = placeReplica(assignment(), "t", 0),
): Replica =>
  inputs.reduce<Replica>((replica, one, i) => {
    const [now, input] = Array.isArray(one) ? one : [i + 1, one];
    return step(replica, input, now, LIMITS);
  }, from);
const UP: ReplicaInput[] = [
  { kind: "imageReady", image: IMAGE },
  { kind: "mounted" },
  { kind: "started", process: PROCESS },
];
const READY = [...UP, report(ReplicaPhase.READY)];

describe("a replica", () => {
  test("goes from placed to ready with the time of every phase, once", () => {
    const replica = run([...READY, report(ReplicaPhase.READY), report(ReplicaPhase.ENGINE_READY)]);
    expect(replica.state.kind).toBe("running");
    expect(replica.marks.map(({ phase, at }) => [ReplicaPhase[phase], at])).toEqual([
      ["DECIDED", 0],
      ["PLACED", 0],
      ["IMAGE_USABLE", 2],
      ["PROCESS_UP", 5],
      ["ENGINE_READY", 6],
      ["READY", 4],
    ]);
    expect(wakeAt(replica, LIMITS)).toBeUndefined();
  });
  test("a worker that repeats itself changes nothing", () => {
    const replica = run(READY);
    expect(step(replica, report(ReplicaPhase.READY), 99, LIMITS)).toBe(replica);
  });
  test("a worker that reports before its start is noted loses nothing", () => {
    const [image, mounted, started] = UP as [ReplicaInput, ReplicaInput, ReplicaInput];
    const replica = run([image, mounted, report(ReplicaPhase.READY), started]);
    expect([replica.state.kind, phaseOf(replica), replica.worker?.endpoint]).toEqual([
      "running",
      ReplicaPhase.READY,
      "http://h:1",
    ]);
  });
  test("a ready replica is drained until its deadline and grace, then stopped, then killed (I2)", () => {
    const draining = run([...READY, [100, { kind: "unwanted", drainTimeoutMs: 500 }]]);
    expect(draining.state).toMatchObject({ kind: "draining", deadlineAt: 600 });
    expect(step(draining, { kind: "tick" }, 609, LIMITS)).toBe(draining);
    const stopping = step(draining, { kind: "tick" }, 610, LIMITS);
    expect(stopping.state).toMatchObject({ kind: "stopping", signal: "SIGTERM", killAt: 710 });
    const killing = step(stopping, { kind: "tick" }, 710, LIMITS);
    expect(killing.state).toMatchObject({ kind: "stopping", signal: "SIGKILL" });
    const gone = run(
      [{ kind: "ended", end: { kind: "killed", signal: "SIGKILL" }, lastLines: "" }, { kind: "released" }],
      killing,
    );
    expect(gone.state).toMatchObject({ kind: "gone", outcome: { reason: "drained" }, announced: false });
    expect(gone.state.kind === "gone" && gone.state.outcome.failure).toBeUndefined();
  });
  test("a second order can only shorten the drain", () => {
    const draining = run([...READY, [100, { kind: "unwanted", drainTimeoutMs: 500 }]]);
    expect(step(draining, { kind: "unwanted", drainTimeoutMs: 900 }, 100, LIMITS)).toBe(draining);
    expect(step(draining, { kind: "unwanted", drainTimeoutMs: 50 }, 200, LIMITS).state).toMatchObject({
      deadlineAt: 250,
    });
  });
  test("a replica that was never ready has no streams to wait for", () => {
    expect(run([...UP, { kind: "unwanted", drainTimeoutMs: 500 }]).state).toMatchObject({
      kind: "stopping",
      signal: "SIGTERM",
    });
    expect(run([{ kind: "unwanted", drainTimeoutMs: 500 }]).state).toMatchObject({ kind: "releasing" });
  });
  test.each([
    [[], "waiting for the image to be converted"],
    [UP.slice(0, 1), "mounting the image"],
    [UP.slice(0, 2), "starting the process"],
    [UP, "waiting for the worker to get ready"],
  ] as [ReplicaInput[], string][])(
    "a start that takes too long names what it waited for (%#)",
    (inputs, waiting) => {
      const late = run([...inputs, [1_000, { kind: "tick" }]]);
      const outcome = "outcome" in late.state ? late.state.outcome : undefined;
      expect(outcome).toMatchObject({
        reason: "startFailed",
        failure: { code: "deadlineExceeded", message: expect.stringContaining(waiting) },
      });
    },
  );
  test("what hindered a late start is in its failure", () => {
    const failure = { code: "unavailable" as const, message: "converter is away", remedy: "Start it." };
    const late = run([{ kind: "hindered", failure }, [1_000, { kind: "tick" }]]);
    expect(late.state).toMatchObject({
      outcome: { failure: { message: expect.stringContaining("converter is away"), remedy: "Start it." } },
    });
    expect(run([{ kind: "hindered", failure }, ...UP]).trouble).toBeUndefined();
  });
  test("a crash is told with how it ended and what was said last", () => {
    const gone = run([
      ...READY,
      { kind: "ended", end: { kind: "exited", code: 3 }, lastLines: "boom" },
      { kind: "released" },
    ]);
    const status = statusOf(gone);
    expect(status).toMatchObject({ phase: ReplicaPhase.GONE, goneReason: 2, failure: { code: "internal" } });
    expect(status.failure?.message).toContain("exited with code 3");
    expect(status.failure?.message).toContain("boom");
  });
  test("a crash before ready is a failed start; what the worker said of it wins", () => {
    const failure = { code: "notFound" as const, message: "no such model", remedy: "Add it." };
    const stopped = run([...UP, report(ReplicaPhase.PROCESS_UP, { failure })]);
    expect(stopped.state).toMatchObject({ kind: "stopping", outcome: { reason: "startFailed", failure } });
  });
  test("a worker that was told to drain by somebody else leaves in peace", () => {
    const left = run([
      ...READY,
      report(ReplicaPhase.DRAINING),
      { kind: "ended", end: { kind: "exited", code: 0 }, lastLines: "" },
    ]);
    expect(left.state).toMatchObject({ kind: "releasing", outcome: { reason: "drained" } });
  });
  test.each(seeds(300))("no order of inputs breaks its invariants, seed %i", (seed) => {
    const random = seededRandom(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
    const failure = { code: "internal" as const, message: "x", remedy: "" };
    let replica = placeReplica(assignment(), "t", 0);
    const order = [
      "ensuringImage",
      "mounting",
      "starting",
      "running",
      "draining",
      "stopping",
      "releasing",
      "gone",
    ];
    for (let i = 0, now = 0; i < 60; i++) {
      now += Math.floor(random() * 200);
      const before = replica;
      const input = pick<ReplicaInput>([
        ...UP,
        { kind: "hindered", failure },
        ...(random() < 0.1 ? [{ kind: "failed" as const, failure }] : []),
        report(
          pick([ReplicaPhase.PROCESS_UP, ReplicaPhase.FIRST_BYTE, ReplicaPhase.READY, ReplicaPhase.DRAINING]),
        ),
        ...(random() < 0.2 ? [{ kind: "unwanted" as const, drainTimeoutMs: 300 }] : []),
        ...(random() < 0.1
          ? [{ kind: "ended" as const, end: { kind: "unknown" as const }, lastLines: "" }]
          : []),
        { kind: "released" },
        { kind: "announced" },
        { kind: "tick" },
      ]);
      replica = step(before, input, now, LIMITS);
      const kinds = [before, replica].map(({ state }) => order.indexOf(state.kind)) as [number, number];
      expect(kinds[1], "R1").toBeGreaterThanOrEqual(kinds[0]);
      expect(phaseOf(replica), "R2").toBeGreaterThanOrEqual(phaseOf(before));
      if (replica.state.kind === "gone" && before.state.kind !== "gone")
        expect(before.state.kind, "R3").toBe("releasing");
      if (before.state.kind === "draining" && replica.state.kind === "stopping")
        expect(now, "R4").toBeGreaterThanOrEqual(before.state.deadlineAt);
      if (before.state.kind === "running" && wasReady(before) && input.kind === "unwanted")
        expect(replica.state.kind, "R4").toBe("draining");
      const phases = replica.marks.map(({ phase }) => phase);
      expect(new Set(phases).size).toBe(phases.length);
    }
  });
});

describe("resources", () => {
  const capacity = { acceleratorKind: "cpu", accelerators: 2, memoryMib: 1_000 };
  const wants = (accelerators: number, memoryMib: number, deviceIndexes: number[] = []) =>
    assignment({ deviceIndexes, deployment: { name: "d", resources: { accelerators, memoryMib } } });
  test.each([
    ["fits exactly", [wants(1, 500)], wants(1, 500), undefined],
    ["thirds add up to one", [wants(1 / 3, 1), wants(1 / 3, 1), wants(1, 1)], wants(1 / 3, 1), undefined],
    ["too much memory", [wants(0, 600)], wants(0, 401), /401 MiB of memory wanted, 400 of 1000 free/],
    ["too many accelerators", [wants(1.5, 1)], wants(0.6, 1), /0.6 accelerators wanted, 0.5 of 2 free/],
    ["two halves of one device", [wants(0.5, 1, [0])], wants(0.5, 1, [0]), undefined],
    ["a device that is taken", [wants(0.5, 1, [0])], wants(1, 1, [0]), /1 of device 0 wanted, 0.5 free/],
    ["a device that is not there", [], wants(1, 1, [2]), /device 2 wanted/],
  ])("%s", (_, held, wanted, why) => {
    const found = misfit(capacity, held, wanted);
    if (why === undefined) expect(found).toBeUndefined();
    else expect(found).toMatch(why);
  });
  test("a refused replica is gone with the reason", () => {
    const status = statusOf(
      refuseReplica(assignment(), { code: "resourceExhausted", message: "full", remedy: "" }, 9),
    );
    expect(status).toMatchObject({
      phase: ReplicaPhase.GONE,
      goneReason: 3,
      failure: { code: "resourceExhausted" },
    });
  });
});
