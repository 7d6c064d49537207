import { describe, expect, test } from "vitest";
import { recordDecision, replayDecision } from "../record.ts";
import {
  decideRollout,
  isOver,
  type NextRollout,
  nextRollout,
  type ReplicaCounts,
  type RolloutAction,
  type RolloutDecision,
  type RolloutObservation,
  type RolloutPlan,
  type RolloutState,
  startRollout,
} from "./index.ts";

const PLAN: RolloutPlan = {
  from: "v1",
  to: "v2",
  deployments: [{ name: "chat", from: { accelerators: 1 }, to: { accelerators: 1 }, surge: 1 }],
  stepIntervalMs: 1_000,
  crashesMax: 1,
  heartbeatTimeoutMs: 20_000,
  startTimeoutMs: 60_000,
  drainTimeoutMs: 30_000,
  gates: null,
};
const GATES = {
  errorRateMax: 0.05,
  errorRatioMax: 1,
  ttftRatioMax: 1.05,
  timePerOutputTokenRatioMax: 1.05,
  samplesMin: 20,
  falseAlarmMax: 0.01,
  unknownPassesAfterMs: 10_000,
  timeoutMs: 50_000,
};
const counts = (ready: number, starting = 0, draining = 0): ReplicaCounts => ({ starting, ready, draining });

const places = (seen: ReplicaCounts | undefined) =>
  seen === undefined ? 0 : seen.starting + seen.ready + seen.draining;

type Scene = Partial<RolloutObservation> & {
  wanted?: number | null;
  from?: ReplicaCounts;
  to?: ReplicaCounts;
  /** The autoscaler has obeyed the last orders; true unless said otherwise. */
  obeyed?: boolean;
};

/** A rollout told scene by scene. */
class Story {
  now = 0;
  state: RolloutState;
  readonly plan: RolloutPlan;
  #latest: Scene = { wanted: 3, from: counts(3), to: counts(0) };

  constructor(plan: Partial<RolloutPlan> = {}) {
    this.plan = { ...PLAN, ...plan };
    this.state = startRollout(0, this.plan);
  }

  /** `afterMs` later this is seen; what is left out stays as it was. Gives the orders in short. */
  see(afterMs: number, scene: Scene = {}): string[] {
    this.now += afterMs;
    this.#latest = { ...this.#latest, ...scene };
    const { wanted, from, to, obeyed = true, ...rest } = this.#latest;
    const observation: RolloutObservation = {
      deployments: this.plan.deployments.map(({ name }) => ({
        name,
        wanted: wanted ?? null,
        from: from ?? counts(0),
        to: to ?? counts(0),
        held: obeyed ? { from: places(from), to: places(to) } : null,
      })),
      counters: { from: null, to: null },
      heardAt: { from: this.now, to: this.now },
      crashes: 0,
      crashWhy: null,
      stop: null,
      ...rest,
    };
    const decision = decideRollout(this.now, observation, this.state, this.plan);
    expect(JSON.parse(JSON.stringify(decision.state))).toEqual(decision.state);
    this.#isRepeatable(observation, decision);
    this.state = decision.state;
    return decision.actions.map(short);
  }

  /** The same decision again, with nothing new seen, orders nothing again. */
  #isRepeatable(observation: RolloutObservation, { state }: RolloutDecision): void {
    const deployments = observation.deployments.map((one) => ({ ...one, held: null }));
    const again = decideRollout(this.now, { ...observation, deployments }, state, this.plan);
    expect(again.actions).toEqual([]);
  }
}

function short(action: RolloutAction): string {
  switch (action.kind) {
    case "setTraffic":
      return action.weights.map(({ version, weight }) => `${version}=${Number(weight.toFixed(3))}`).join(" ");
    case "setBounds":
      return `${action.version}/${action.deployment}:${action.replicasMin}`;
    case "clearBounds":
      return `${action.version}/${action.deployment}:load`;
    case "retireVersion":
      return `retire ${action.version}`;
    case "complete":
      return action.outcome;
    default:
      return action satisfies never;
  }
}

describe("three replicas become three others with one more accelerator", () => {
  test("step by step: traffic, drain, start", () => {
    const story = new Story();
    expect(story.see(0)).toEqual(["v1=1 v2=0", "v1/chat:3", "v2/chat:1"]);
    expect(story.see(5_000, { to: counts(0, 1) })).toEqual([]);
    expect(story.see(1_000, { to: counts(1) })).toEqual(["v1=0.667 v2=0.333", "v1/chat:2"]);
    expect(story.see(100, { from: counts(2, 0, 1) })).toEqual([]);
    expect(story.see(2_000, { from: counts(2) })).toEqual(["v2/chat:2"]);
    expect(story.see(5_000, { to: counts(2) })).toEqual(["v1=0.333 v2=0.667", "v1/chat:1"]);
    expect(story.see(1_000, { from: counts(1) })).toEqual(["v2/chat:3"]);
    expect(story.see(5_000, { to: counts(3) })).toEqual(["v1=0 v2=1", "v1/chat:0"]);
    expect(story.see(1_000, { from: counts(0, 0, 1) })).toEqual([]);
    expect(story.state.kind).toBe("finishing");
    expect(story.see(1_000, { from: counts(0) })).toEqual(["v2=1", "v2/chat:load", "retire v1", "done"]);
    expect(story.see(1_000)).toEqual([]);
    expect(isOver(story.state)).toBe(true);
  });

  test("a step waits for its interval", () => {
    const story = new Story({ stepIntervalMs: 10_000 });
    story.see(0);
    story.see(1_000, { to: counts(1) });
    story.see(1_000, { from: counts(2) });
    expect(story.see(1_000, { to: counts(2) })).toEqual([]);
    expect(story.see(8_000)).toEqual(["v1=0.333 v2=0.667", "v1/chat:1"]);
  });

  test("a larger surge takes larger steps", () => {
    const story = new Story({ deployments: [{ ...PLAN.deployments[0]!, surge: 3 }] });
    story.see(0);
    expect(story.see(1_000, { to: counts(1) })).toEqual(["v1=0.667 v2=0.333", "v1/chat:2", "v2/chat:3"]);
  });
});

describe("autoscaling goes on", () => {
  test("more replicas are new ones", () => {
    const story = new Story();
    story.see(0);
    story.see(1_000, { to: counts(1) });
    expect(story.see(1_000, { from: counts(2), wanted: 6 })).toContain("v2/chat:5");
  });
  test("fewer replicas are fewer old ones, as the traffic allows", () => {
    const story = new Story();
    story.see(0, { wanted: 6, from: counts(6) });
    story.see(1_000, { to: counts(1) });
    story.see(1_000, { from: counts(5) });
    story.see(1_000, { to: counts(2) });
    expect(story.see(2_000, { wanted: 2 })).toEqual(["v1=0 v2=1", "v1/chat:0"]);
  });
  test("while the new version proves itself the old one follows the load", () => {
    const story = new Story({ gates: GATES });
    story.see(0);
    expect(story.see(1_000, { wanted: 5 })).toEqual(["v1/chat:5"]);
    expect(story.see(1_000, { wanted: 2 })).toEqual(["v1/chat:2"]);
  });
  test("an unknown target leaves the last known one", () => {
    const story = new Story();
    story.see(0);
    expect(story.see(1_000, { wanted: null, to: counts(1) })).toEqual(["v1=0.667 v2=0.333", "v1/chat:2"]);
  });
});

describe("traffic follows ready capacity at once", () => {
  test("when new replicas crash it goes back to the old ones", () => {
    const story = new Story();
    story.see(0);
    story.see(1_000, { to: counts(1) });
    expect(story.see(10, { to: counts(0), crashes: 1 })).toEqual(["v1=1 v2=0"]);
  });
  test("when old replicas crash the new ones take what the old ones cannot", () => {
    const story = new Story();
    story.see(0);
    story.see(1_000, { to: counts(1) });
    expect(story.see(10, { from: counts(1) })[0]).toBe("v1=0.5 v2=0.5");
  });
});

describe("gates", () => {
  const totals = (requests: number, errors: number) => ({
    requests,
    errors,
    ttft: { count: 0, sum: 0, sumOfSquares: 0 },
    timePerOutputToken: { count: 0, sum: 0, sumOfSquares: 0 },
  });
  const gated = (gates: Partial<typeof GATES> | { unknownPassesAfterMs: null } = {}) => {
    const story = new Story({ gates: { ...GATES, ...gates } });
    story.see(0);
    expect(story.see(1_000, { to: counts(1) })).toEqual(["v1=0.75 v2=0.25"]);
    story.see(1, { counters: { from: totals(0, 0), to: totals(0, 0) } });
    return story;
  };

  test("enough good requests let it go on", () => {
    const story = gated();
    expect(story.see(2_000, { counters: { from: totals(60, 0), to: totals(20, 0) } })).toEqual([
      "v1=0.667 v2=0.333",
      "v1/chat:2",
    ]);
  });
  test("too few requests pass only after their time", () => {
    const story = gated();
    const few = { counters: { from: totals(6, 0), to: totals(2, 0) } };
    expect(story.see(5_000, few)).toEqual([]);
    expect(story.see(5_000, few)).toContain("v1/chat:2");
  });
  test("or never, and then the gate's deadline undoes the rollout", () => {
    const story = gated({ unknownPassesAfterMs: null });
    for (let i = 0; i < 5; i++) expect(story.see(9_000)).toEqual([]);
    expect(story.see(9_000)).toEqual(["v1=1 v2=0", "v2/chat:0"]);
    expect(story.state).toMatchObject({ kind: "rollingBack", reason: { kind: "gateTimeout" } });
  });
  test("a failure in the middle goes back the same way, with the same bound", () => {
    const story = gated();
    story.see(2_000, { counters: { from: totals(60, 0), to: totals(20, 0) } });
    story.see(1_000, { from: counts(2) });
    story.see(1_000, { to: counts(2) });
    story.see(1_000, { from: counts(1) });
    expect(story.see(100, { counters: { from: totals(100, 0), to: totals(60, 30) } })).toEqual(["v2/chat:2"]);
  });
});

describe("the way back", () => {
  const half = () => {
    const story = new Story();
    story.see(0);
    story.see(1_000, { to: counts(1) });
    story.see(1_000, { from: counts(2) });
    story.see(1_000, { to: counts(2) });
    story.see(1_000, { from: counts(1) });
    return story;
  };

  test("exchanges replicas the other way round, within the same limit", () => {
    const story = half();
    expect(story.see(100, { stop: "aborted" })).toEqual(["v1/chat:1"].slice(1).concat(["v2/chat:2"]));
    expect(story.see(1_000, { to: counts(2) })).toEqual(["v1/chat:2"]);
    expect(story.see(5_000, { from: counts(2) })).toEqual(["v1=0.667 v2=0.333", "v2/chat:1"]);
    expect(story.see(1_000, { to: counts(1) })).toEqual(["v1/chat:3"]);
    expect(story.see(5_000, { from: counts(3) })).toEqual(["v1=1 v2=0", "v2/chat:0"]);
    expect(story.see(1_000, { to: counts(0) })).toEqual(["v1=1", "v1/chat:load", "retire v2", "rolledBack"]);
  });

  test("costs nothing while the old version is whole", () => {
    const story = new Story();
    story.see(0);
    expect(story.see(1_000, { to: counts(0, 1), stop: "superseded" })).toEqual(["v2/chat:0"]);
    expect(story.see(1_000, { to: counts(0) })).toContain("rolledBack");
  });

  test("is not over before the autoscaler has obeyed: it may still start what was ordered", () => {
    const story = new Story();
    story.see(0);
    expect(story.see(1_000, { stop: "aborted", obeyed: false })).toEqual(["v2/chat:0"]);
    expect(story.see(1_000)).toEqual([]);
    expect(story.see(1_000, { obeyed: true })).toContain("rolledBack");
  });

  test.each([
    ["crashes beyond what is tolerated", { crashes: 2, crashWhy: "exit 1" }, "crashLoop", "exit 1"],
    [
      "silence while the old version is heard",
      { to: counts(1), heardAt: { from: 35_000, to: 10_000 } },
      "heartbeatLost",
      "25000 ms",
    ],
    ["a person's wish", { stop: "aborted" as const }, "aborted", "person"],
  ])("is taken on %s", (_, scene, kind, why) => {
    const story = new Story({ gates: { ...GATES, unknownPassesAfterMs: 60_000 } });
    story.see(0);
    for (let i = 0; i < 7; i++) story.see(5_000);
    expect(story.state.kind).not.toBe("rollingBack");
    story.see(0, scene);
    expect(story.state).toMatchObject({
      kind: "rollingBack",
      reason: { kind, why: expect.stringContaining(why) },
    });
  });

  test("is not taken on silence of both versions: then messages are lost, not replicas", () => {
    const story = new Story({ gates: { ...GATES, unknownPassesAfterMs: 60_000 } });
    story.see(0, { to: counts(1) });
    for (let i = 0; i < 6; i++) story.see(5_000, { heardAt: { from: 0, to: 0 } });
    expect(story.state.kind).toBe("gating");
  });

  test("is taken when nothing becomes ready in time, but not for the time nobody decided", () => {
    const waiting = new Story();
    for (let i = 0; i < 14; i++) waiting.see(5_000, { to: counts(0, 1) });
    expect(waiting.state.kind).toBe("starting");
    // The time counts from when there was room for a replica, and controllers get ten seconds beyond it.
    waiting.see(5_000);
    waiting.see(5_000);
    expect(waiting.state).toMatchObject({ kind: "rollingBack", reason: { kind: "startTimeout" } });

    const away = new Story();
    away.see(0, { to: counts(0, 1) });
    away.see(600_000);
    expect(away.state.kind).toBe("starting");
  });

  test("that leads nowhere ends too, and leaves what serves alone", () => {
    const story = half();
    story.see(100, { stop: "aborted" });
    for (let i = 0; i < 25; i++) story.see(5_000);
    expect(story.state).toMatchObject({ kind: "failed", reason: { kind: "aborted" } });
  });
});

describe("the first version", () => {
  const first = () =>
    new Story({ from: null, deployments: [{ name: "chat", from: null, to: { accelerators: 1 }, surge: 1 }] });

  test("gets all traffic at once: requests wait for its first replica", () => {
    const story = first();
    expect(story.see(0, { wanted: 2, from: counts(0) })).toEqual(["v2=1", "v2/chat:2"]);
    expect(story.see(500)).toEqual([]);
    expect(story.see(1_000, { to: counts(1, 1) })).toEqual(["v2=1", "v2/chat:load", "done"]);
  });

  test("that does not start is given up and leaves nothing", () => {
    const story = first();
    story.see(0, { wanted: 1, from: counts(0) });
    expect(story.see(1_000, { crashes: 2 })).toEqual(["v2/chat:0"]);
    expect(story.see(1_000)).toEqual(["retire v2", "failed"]);
  });
});

describe("several deployments", () => {
  const both = { from: { accelerators: 1 }, to: { accelerators: 1 }, surge: 1 };

  test("move together: the slowest decides the traffic", () => {
    const plan: RolloutPlan = {
      ...PLAN,
      deployments: [
        { ...both, name: "a" },
        { ...both, name: "b" },
      ],
    };
    const see = (
      state: RolloutState,
      now: number,
      a: [ReplicaCounts, ReplicaCounts],
      b: [ReplicaCounts, ReplicaCounts],
    ) =>
      decideRollout(
        now,
        {
          deployments: [
            { name: "a", wanted: 2, from: a[0], to: a[1] },
            { name: "b", wanted: 4, from: b[0], to: b[1] },
          ],
          counters: { from: null, to: null },
          heardAt: { from: now, to: now },
          crashes: 0,
          crashWhy: null,
          stop: null,
        },
        state,
        plan,
      );
    const begun = see(startRollout(0, plan), 0, [counts(2), counts(0)], [counts(4), counts(0)]);
    const onlyOne = see(begun.state, 100, [counts(2), counts(1)], [counts(4), counts(0)]);
    expect(onlyOne.state.kind).toBe("starting");
    const ready = see(onlyOne.state, 200, [counts(2), counts(1)], [counts(4), counts(1)]);
    expect(ready.actions.map(short)).toEqual(["v1=0.75 v2=0.25", "v1/b:3"]);
  });

  test("one that goes away stays until the traffic is gone, one that is new comes first", () => {
    const plan: RolloutPlan = {
      ...PLAN,
      deployments: [
        { name: "kept", ...both },
        { name: "old", ...both, to: null },
        { name: "new", ...both, from: null },
      ],
    };
    const scene = (kept: [number, number], old: number, fresh: number, now: number): RolloutObservation => ({
      deployments: [
        { name: "kept", wanted: 1, from: counts(kept[0]), to: counts(kept[1]) },
        { name: "old", wanted: 2, from: counts(old), to: counts(0) },
        { name: "new", wanted: null, from: counts(0), to: counts(fresh) },
      ],
      counters: { from: null, to: null },
      heardAt: { from: now, to: now },
      crashes: 0,
      crashWhy: null,
      stop: null,
    });
    let decision = decideRollout(0, scene([1, 0], 2, 0, 0), startRollout(0, plan), plan);
    expect(decision.actions.map(short)).toEqual([
      "v1=1 v2=0",
      "v1/kept:1",
      "v2/kept:1",
      "v1/old:2",
      "v2/new:1",
    ]);
    decision = decideRollout(100, scene([1, 1], 2, 0, 100), decision.state, plan);
    expect(decision.state.kind).toBe("starting");
    decision = decideRollout(200, scene([1, 1], 2, 1, 200), decision.state, plan);
    expect(decision.actions.map(short)).toEqual(["v1=0 v2=1", "v1/kept:0", "v1/old:0"]);
  });

  test("fractions and unequal sizes stay within the accelerators of the larger side", () => {
    const story = new Story({
      deployments: [{ name: "chat", from: { accelerators: 0.5 }, to: { accelerators: 1 }, surge: 1 }],
    });
    expect(story.see(0, { wanted: 4, from: counts(4) })).toEqual(["v1=1 v2=0", "v1/chat:4", "v2/chat:1"]);
    // 4 x 1 + 1 = 5 accelerators; 4 x 0.5 are taken, so three new ones fit at once.
    expect(story.see(1_000, { to: counts(1) })).toEqual(["v1=0.75 v2=0.25", "v1/chat:3", "v2/chat:3"]);
  });
});

test("a decision replays from its record, byte for byte", () => {
  const observation: RolloutObservation = {
    deployments: [{ name: "chat", wanted: 3, from: counts(3), to: counts(1) }],
    counters: { from: null, to: null },
    heardAt: { from: 1, to: null },
    crashes: 0,
    crashWhy: null,
    stop: null,
  };
  const { decision, record } = recordDecision("rollout", 1_000, observation, startRollout(0, PLAN), PLAN);
  expect(decision.actions.length).toBeGreaterThan(0);
  expect(replayDecision(record)).toEqual({ kind: "same" });
});

describe("which rollout comes next", () => {
  const done: RolloutState = { kind: "done", at: 1 };
  const back = (kind: "gateFailed" | "superseded"): RolloutState => ({
    kind: "rolledBack",
    at: 1,
    reason: { kind, why: "" },
  });
  const running = startRollout(0, PLAN);
  test.each<[string, Parameters<typeof nextRollout>, NextRollout]>([
    ["nothing is wanted", [null, null, null, false], { kind: "none" }],
    ["the first version", [null, "v1", null, false], { kind: "start", from: null, to: "v1" }],
    ["what is wanted serves", ["v1", "v1", { to: "v1", state: done }, false], { kind: "none" }],
    [
      "another version",
      ["v1", "v2", { to: "v1", state: done }, false],
      { kind: "start", from: "v1", to: "v2" },
    ],
    ["it is on its way", ["v1", "v2", { to: "v2", state: running }, false], { kind: "none" }],
    [
      "a newer one while one is on its way",
      ["v1", "v3", { to: "v2", state: running }, false],
      { kind: "supersede" },
    ],
    ["it was refused", ["v1", "v2", { to: "v2", state: back("gateFailed") }, false], { kind: "none" }],
    [
      "it was refused and is asked for again",
      ["v1", "v2", { to: "v2", state: back("gateFailed") }, true],
      { kind: "start", from: "v1", to: "v2" },
    ],
    [
      "it only had to make way",
      ["v1", "v2", { to: "v2", state: back("superseded") }, false],
      { kind: "start", from: "v1", to: "v2" },
    ],
  ])("%s", (_, args, expected) => {
    expect(nextRollout(...args)).toEqual(expected);
  });
});
