import { describe, expect, test } from "vitest";
import { recordDecision, replayDecision } from "../record.ts";
import {
  type AutoscalingConfig,
  type AutoscalingDecision,
  type AutoscalingState,
  decide,
  initialAutoscalingState,
  type LoadObservation,
  type ReplicaObservation,
  type VersionObservation,
} from "./index.ts";

const CONFIG: AutoscalingConfig = {
  replicasMin: 1,
  replicasMax: 10,
  targetInFlight: 4,
  scaleUpDelayMs: 0,
  scaleDownDelayMs: 60_000,
  scaleToZeroDelayMs: 120_000,
  toleranceReplicas: 0.1,
  coldStartMsAssumed: 20_000,
  startBackoffMs: 1_000,
  startBackoffMsMax: 30_000,
};

const load = (inFlight: number, queued = 0, changes: Partial<LoadObservation> = {}): LoadObservation => ({
  inFlight,
  queued,
  arrivedPerS: null,
  completedPerS: null,
  complete: true,
  ...changes,
});
const replicas = (
  count: number,
  phase: ReplicaObservation["phase"] = "ready",
  prefix = "r",
): ReplicaObservation[] =>
  Array.from({ length: count }, (_, index) => ({
    replicaId: `${prefix}${index}`,
    phase,
    since: 0,
    inFlight: 1,
  }));
const version = (changes: Partial<VersionObservation> = {}): VersionObservation => ({
  version: "v1",
  load: load(0),
  replicas: replicas(1),
  bounds: null,
  ...changes,
});
const settled = (target: number): AutoscalingState => ({ ...initialAutoscalingState(100), target });
const step = (
  now: number,
  state: AutoscalingState,
  versions: VersionObservation | VersionObservation[],
  config: Partial<AutoscalingConfig> = {},
): AutoscalingDecision =>
  decide(now, { versions: [versions].flat(), coldStartsMs: [] }, state, { ...CONFIG, ...config });
const kinds = (decision: AutoscalingDecision) => decision.actions.map(({ kind }) => kind);

describe("more load", () => {
  test("orders replicas within the very sample that shows it, starting ones counted", () => {
    const first = step(0, settled(1), version({ load: load(17) }));
    expect(first.reason).toBe("moreLoad");
    expect(kinds(first)).toEqual(Array(4).fill("startReplica"));
    const all = [...replicas(1), ...replicas(4, "starting", "s")];
    expect(step(250, first.state, version({ load: load(17), replicas: all })).actions).toEqual([]);
  });

  test("must last as long as the delay says, and its least counts", () => {
    const config = { scaleUpDelayMs: 1_000 };
    let decision = step(0, settled(1), version({ load: load(30) }), config);
    expect(decision).toMatchObject({ reason: "moreLoadForTooShort", actions: [], wakeAt: 1_000 });
    decision = step(500, decision.state, version({ load: load(10) }), config);
    decision = step(1_000, decision.state, version({ load: load(40) }), config);
    expect(decision.state.target).toBe(3);
    const broken = step(
      500,
      step(0, settled(1), version({ load: load(30) }), config).state,
      version(),
      config,
    );
    expect(step(1_000, broken.state, version({ load: load(30) }), config).actions).toEqual([]);
  });

  test("never goes beyond the limit", () => {
    expect(step(0, settled(1), version({ load: load(1_000) })).state.target).toBe(10);
  });

  test("from zero it is followed at once, even one request", () => {
    const config = { replicasMin: 0, scaleUpDelayMs: 60_000 };
    const decision = step(0, settled(0), version({ load: load(0, 1), replicas: [] }), config);
    expect(decision).toMatchObject({ reason: "fromZero", state: { target: 1 } });
  });

  test("a queue that will be gone before a replica could help orders none", () => {
    // Ten a second come, twelve are completed: 30 waiting are gone in 15 s, a start takes 20 s.
    const waning = load(8, 30, { arrivedPerS: 10, completedPerS: 12 });
    const decision = step(10_000, settled(2), version({ load: waning, replicas: replicas(2) }));
    expect(decision.actions).toEqual([]);
    expect(decision.explain.backlogIgnored).toBeGreaterThan(25);
    const growing = load(8, 30, { arrivedPerS: 18, completedPerS: 12 });
    expect(
      step(10_000, settled(2), version({ load: growing, replicas: replicas(2) })).state.target,
    ).toBeGreaterThan(2);
  });

  test("a queue from a slow start is no demand for as many replicas as it would fill", () => {
    // 3.2 a second come, a replica does 0.8: four are enough, but 150 wait after a minute of starting.
    const state = { ...settled(4), perReplicaPerS: 0.8 };
    const starting = [...replicas(1), ...replicas(3, "starting", "s")];
    const slow = load(4, 150, { arrivedPerS: 3.2, completedPerS: 0.8 });
    const decision = decide(
      59_000,
      { versions: [version({ load: slow, replicas: starting })], coldStartsMs: [60_000] },
      state,
      { ...CONFIG, replicasMax: 100 },
    );
    expect(decision.state.target).toBeLessThan(9);
    expect((4 + 150) / CONFIG.targetInFlight).toBeGreaterThan(38);
  });
});

describe("less load", () => {
  test("is believed only after a whole window, and then goes to the window's highest need", () => {
    let { state } = step(0, settled(5), version({ load: load(20), replicas: replicas(5) }));
    state = step(30_000, state, version({ load: load(11), replicas: replicas(5) })).state;
    const early = step(59_000, state, version({ load: load(2), replicas: replicas(5) }));
    expect(early).toMatchObject({ reason: "lessLoadForTooShort", actions: [] });
    const due = step(early.wakeAt ?? 0, early.state, version({ load: load(2), replicas: replicas(5) }));
    expect(due).toMatchObject({ reason: "lessLoad", state: { target: 3 } });
    expect(kinds(due)).toEqual(["drainReplica", "drainReplica"]);
  });

  test("the wake-up time suffices: nobody has to ask in between", () => {
    let decision = step(0, settled(8), version({ load: load(0), replicas: replicas(8) }));
    let now = 0;
    for (let i = 0; i < 10 && decision.wakeAt !== null; i++) {
      now = decision.wakeAt;
      decision = step(
        now,
        decision.state,
        version({ load: load(0), replicas: replicas(decision.state.target ?? 0) }),
      );
    }
    expect(decision.state.target).toBe(1);
    expect(now).toBeLessThan(70_000);
  });

  test("takes away what has not started yet first, then the least busy", () => {
    const mixed: ReplicaObservation[] = [
      { replicaId: "busy", phase: "ready", since: 0, inFlight: 9 },
      { replicaId: "unknown", phase: "ready", since: 0, inFlight: null },
      { replicaId: "idle", phase: "ready", since: 0, inFlight: 0 },
      { replicaId: "new", phase: "starting", since: 5, inFlight: null },
      { replicaId: "newer", phase: "starting", since: 9, inFlight: null },
    ];
    const bounds = { replicasMin: 2, replicasMax: 2 };
    const { actions } = step(0, settled(2), version({ replicas: mixed, bounds }));
    expect(actions.map((action) => "replicaId" in action && action.replicaId)).toEqual([
      "newer",
      "new",
      "idle",
    ]);
  });

  test("the last replica goes only after the longer delay", () => {
    const config = { replicasMin: 0, scaleDownDelayMs: 1_000 };
    let decision = step(0, settled(1), version(), config);
    for (let now = 1_000; now < 121_000; now += 1_000)
      decision = step(now, decision.state, version(), config);
    expect(decision.state.target).toBe(1);
    // Idleness counts from the second look on: the first one has no history.
    expect(step(121_000, decision.state, version(), config).state.target).toBe(0);
  });
});

describe("unknown load", () => {
  test.each([
    ["no sample at all", null],
    ["a gateway missing", load(0, 0, { complete: false })],
  ])("never scales down: %s", (_, observed) => {
    let decision = step(0, settled(5), version({ load: observed, replicas: replicas(5) }));
    for (let now = 0; now < 300_000; now += 1_000) {
      decision = step(now, decision.state, version({ load: observed, replicas: replicas(5) }));
      expect(decision).toMatchObject({ reason: "unknownLoad", actions: [], state: { target: 5 } });
    }
    // What comes after a gap needs a whole window of its own.
    expect(step(300_000, decision.state, version({ load: load(0), replicas: replicas(5) })).actions).toEqual(
      [],
    );
  });

  test("may scale up: what is known is there at least", () => {
    const partial = load(20, 0, { complete: false });
    expect(step(0, settled(2), version({ load: partial, replicas: replicas(2) })).state.target).toBe(5);
  });

  test("a restart adopts the fleet that it finds, for one whole window", () => {
    const first = step(0, initialAutoscalingState(), version({ load: load(0), replicas: replicas(6) }));
    expect(first).toMatchObject({ reason: "adopted", actions: [], state: { target: 6 } });
    expect(step(30_000, first.state, version({ load: load(0), replicas: replicas(6) })).actions).toEqual([]);
  });
});

test("constant load never flaps, wherever it lies between two numbers of replicas", () => {
  for (let demand = 0.5; demand < 40; demand += 0.5) {
    let state = settled(10);
    const targets = new Set<number | null>();
    for (let now = 0; now < 400_000; now += 2_000) {
      // Noise of less than the tolerance on both sides.
      const noisy = demand + (((now / 2_000) % 2) - 0.5) * 0.7;
      state = step(now, state, version({ load: load(noisy), replicas: replicas(state.target ?? 0) })).state;
      if (now > 130_000) targets.add(state.target);
    }
    expect([demand, targets.size]).toEqual([demand, 1]);
  }
});

describe("failed replicas", () => {
  const failed = (count: number) => version({ load: load(4), replicas: replicas(count, "failed", "f") });
  test("the first is cleared away and replaced at once", () => {
    expect(kinds(step(0, settled(1), failed(1)))).toEqual(["removeReplica", "startReplica"]);
  });
  test("in a row they wait longer and longer, up to the limit", () => {
    let state = settled(1);
    const waits: number[] = [];
    let now = 0;
    for (let i = 0; i < 9; i++) {
      const decision = step(now, state, failed(1));
      const startAt = decision.actions.some(({ kind }) => kind === "startReplica")
        ? now
        : (decision.wakeAt ?? 0);
      waits.push(startAt - now);
      state = decision.state;
      now = startAt + 500;
    }
    expect(waits).toEqual([0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  });
  test("a node that takes three with it counts once", () => {
    expect(kinds(step(0, settled(3), failed(3)))).toEqual([
      ...Array(3).fill("removeReplica"),
      ...Array(3).fill("startReplica"),
    ]);
  });
  test("a replica that stays ready ends the row", () => {
    const { state } = step(0, step(0, settled(1), failed(1)).state, failed(1));
    const healthy = version({ load: load(4), replicas: [{ ...replicas(1)[0]!, since: 5_000 }] });
    expect(step(40_000, state, healthy).state.failures).toEqual([]);
    expect(step(20_000, state, healthy).state.failures).toHaveLength(1);
  });
});

describe("versions", () => {
  const bounded = (name: string, count: number, held: ReplicaObservation[]) =>
    version({ version: name, bounds: { replicasMin: count, replicasMax: count }, replicas: held });

  test("during a rollout the bounds decide how many, the load of both how many are needed", () => {
    const decision = step(0, settled(4), [
      { ...bounded("v1", 3, replicas(4, "ready", "a")), load: load(10) },
      { ...bounded("v2", 1, []), load: load(6) },
    ]);
    expect(decision.explain).toMatchObject({ demand: 16, target: 4 });
    expect(decision.actions.map((action) => [action.kind, action.version])).toEqual([
      ["drainReplica", "v1"],
      ["startReplica", "v2"],
    ]);
  });

  test("a bounded version starts nothing on a place that still drains", () => {
    const draining = replicas(1, "draining", "d");
    expect(step(0, settled(1), bounded("v1", 1, draining)).actions).toEqual([]);
    expect(kinds(step(0, settled(1), version({ replicas: draining })))).toEqual(["startReplica"]);
  });

  test("a version without bounds keeps the whole target beside a bounded one", () => {
    const decision = step(0, settled(3), [
      version({ load: load(12), replicas: replicas(3) }),
      bounded("v2", 1, []),
    ]);
    expect(decision.explain.allocations).toEqual([
      { version: "v1", replicas: 3 },
      { version: "v2", replicas: 1 },
    ]);
  });

  test("a version that only starts does not make the load unknown", () => {
    const starting = { ...bounded("v2", 1, replicas(1, "starting")), load: null };
    const decision = step(0, settled(1), [version({ load: load(1) }), starting]);
    expect(decision.reason).toBe("steady");
  });

  test("numbers of replicas are never given twice", () => {
    const first = step(0, settled(4), [version({ replicas: [] }), bounded("v2", 2, [])]);
    const ordinals = first.actions.flatMap((action) =>
      action.kind === "startReplica" ? [action.ordinal] : [],
    );
    expect(ordinals).toEqual([100, 101, 102, 103, 104, 105]);
    expect(first.state.nextOrdinal).toBe(106);
  });
});

describe("the decision record", () => {
  const observation = { versions: [version({ load: load(17, 5) })], coldStartsMs: [4_000] };
  const { decision, record } = recordDecision("autoscaling", 1_000, observation, settled(1), CONFIG);

  test("replays byte for byte", () => {
    expect(decision.actions.length).toBeGreaterThan(0);
    expect(replayDecision(record)).toEqual({ kind: "same" });
  });
  test("shows that it was changed", () => {
    expect(replayDecision(record.replace('"reason":"moreLoad"', '"reason":"steady"')).kind).toBe("different");
  });
  test.each(["", "{", "null", '{"format":2}', '{"format":1,"policy":"toString","input":[]}'])(
    "that is damaged is unreadable, not an exception: %j",
    (text) => expect(replayDecision(text).kind).toBe("unreadable"),
  );
  test("deciding leaves its input as it was", () => {
    const state = settled(1);
    const [frozenState, frozenObservation] = [structuredClone(state), structuredClone(observation)];
    decide(1_000, observation, state, CONFIG);
    expect(state).toEqual(frozenState);
    expect(observation).toEqual(frozenObservation);
  });
});
