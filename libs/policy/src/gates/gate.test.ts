import { describe, expect, test } from "vitest";
import { createRandom, type Random } from "../random.ts";
import {
  addDuration,
  type GateConfig,
  type GateVerdict,
  judge,
  noCounters,
  openGate,
  updateGate,
  type VersionCounters,
} from "./index.ts";

const CONFIG: GateConfig = {
  errorRateMax: 0.05,
  errorRatioMax: 1,
  ttftRatioMax: 1.05,
  timePerOutputTokenRatioMax: 1.05,
  samplesMin: 20,
  falseAlarmMax: 0.01,
};

type Behaviour = { errorShare: number; ttftMs: number };
const GOOD: Behaviour = { errorShare: 0.01, ttftMs: 300 };

function serve(
  totals: VersionCounters,
  count: number,
  behaviour: Behaviour,
  load: number,
  random: Random,
): VersionCounters {
  let next = totals;
  for (let i = 0; i < count; i++) {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const failed = random() < behaviour.errorShare;
    next = {
      requests: next.requests + 1,
      errors: next.errors + (failed ? 1 : 0),
      ttft: failed ? next.ttft : addDuration(next.ttft, behaviour.ttftMs * load * Math.exp(0.5 * normal)),
      timePerOutputToken: addDuration(next.timePerOutputToken, 30 * load * Math.exp(0.2 * random())),
    };
  }
  return next;
}

/**
 * A rollout's traffic: looks after every 20 requests, of which the candidate gets a share that grows from 10 % to 50 %,
 * while the load makes both slower and slower. Gives the verdict and the look at which a failure was seen.
 */
function watch(
  seed: number,
  candidate: Behaviour,
  looks: number,
  config = CONFIG,
): { verdict: GateVerdict; look: number } {
  const random = createRandom(seed);
  let [one, other] = [noCounters, noCounters];
  let gate = openGate(null, null);
  for (let look = 1; look <= looks; look++) {
    const share = 0.1 + (0.4 * look) / looks;
    const load = 1 + look / looks;
    const mine = Math.round(20 * share + random() - 0.5);
    one = serve(one, mine, candidate, load, random);
    other = serve(other, 20 - mine, GOOD, load, random);
    gate = updateGate(gate, one, other, config);
    const verdict = judge(gate, config);
    if (verdict.kind === "fail") return { verdict, look };
  }
  return { verdict: judge(gate, config), look: looks };
}

const failures = (runs: number, candidate: Behaviour, looks: number) =>
  Array.from({ length: runs }, (_, index) => watch(index + 1, candidate, looks)).filter(
    ({ verdict }) => verdict.kind === "fail",
  );

describe("the gate", () => {
  test("looked at 200 times, fails a version that is no worse in at most 1 % of rollouts", () => {
    expect(failures(500, GOOD, 200).length).toBeLessThanOrEqual(5);
  });

  test.each([
    ["is 20 % slower", { ...GOOD, ttftMs: 360 }, "ttft", 200],
    ["fails 3 points more requests", { ...GOOD, errorShare: 0.04 }, "errorRatio", 200],
    ["fails a fifth of its requests", { ...GOOD, errorShare: 0.2 }, "errorRat", 50],
    ["is twice as slow", { ...GOOD, ttftMs: 600 }, "ttft", 30],
  ])("catches a version that %s, nearly always", (_, candidate, test, looks) => {
    const caught = failures(100, candidate, looks);
    expect(caught.length).toBeGreaterThanOrEqual(95);
    for (const { verdict } of caught) {
      expect(verdict.kind === "fail" && verdict.test.startsWith(test)).toBe(true);
    }
  });

  test("says what it measured", () => {
    const { verdict } = watch(1, { ...GOOD, ttftMs: 600 }, 60);
    expect(verdict.kind === "fail" && verdict.why).toMatch(
      /time to first token is [12]\.\d\d times the other version's; at most 1.05/,
    );
  });

  test("a version that was slower from the start of the comparison only by its share's time is not blamed", () => {
    // The load doubles while the candidate's share grows: over all requests its mean is worse, side by side it is not.
    expect(
      failures(200, GOOD, 100).filter(({ verdict }) => verdict.kind === "fail" && verdict.test === "ttft"),
    ).toEqual([]);
  });

  test("too few requests are unknown, neither pass nor fail", () => {
    const gate = updateGate(
      openGate(null, null),
      serve(noCounters, 5, GOOD, 1, createRandom(1)),
      null,
      CONFIG,
    );
    expect(judge(gate, CONFIG)).toEqual({ kind: "unknown", requests: 5, samplesMin: 20 });
  });

  test("many failures fail it however few requests there were, also with nothing to compare with", () => {
    const gate = updateGate(openGate(null, null), { ...noCounters, requests: 6, errors: 6 }, null, CONFIG);
    expect(judge(gate, CONFIG)).toMatchObject({ kind: "fail", test: "errorRate" });
  });

  test("what happened before it was opened does not count", () => {
    const before = { ...noCounters, requests: 1000, errors: 1000 };
    const gate = updateGate(openGate(before, before), { ...before, requests: 1030 }, before, CONFIG);
    expect(judge(gate, CONFIG)).toEqual({ kind: "pass" });
  });

  test("a repeated observation changes nothing, a lost one is made up for by the next", () => {
    const random = createRandom(4);
    const first = serve(noCounters, 30, GOOD, 1, random);
    const second = serve(first, 30, GOOD, 1, random);
    const gate = updateGate(openGate(null, null), first, first, CONFIG);
    expect(updateGate(gate, first, first, CONFIG)).toEqual(gate);
    expect(updateGate(gate, null, null, CONFIG)).toEqual(gate);
    const late = updateGate(openGate(null, null), second, second, CONFIG);
    expect(late.requests).toBe(60);
  });

  test("totals that start again from zero are counted from there", () => {
    const random = createRandom(4);
    const gate = updateGate(openGate(null, null), serve(noCounters, 50, GOOD, 1, random), null, CONFIG);
    const restarted = updateGate(gate, serve(noCounters, 10, GOOD, 1, random), null, CONFIG);
    expect(restarted.requests).toBe(60);
  });
});
