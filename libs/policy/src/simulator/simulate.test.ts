import { describe, expect, test } from "vitest";
import { goodBehaviour, noFaults, randomScenario, type SimulationOptions, simulate } from "./index.ts";

const SEEDS = 200;
const seeds = Array.from({ length: SEEDS }, (_, index) => index + 1);

describe("random worlds", () => {
  test.each(seeds)("every invariant holds and every rollout ends, seed %i", (seed) => {
    const result = simulate(randomScenario(seed));
    expect(result.violations).toEqual([]);
    expect(result.unfinished).toBe(false);
    expect(result.requests.completed).toBeGreaterThan(0);
  });

  test("the same seed gives the same world", () => {
    expect(simulate(randomScenario(7))).toEqual(simulate(randomScenario(7)));
  });
});

/** One deployment under constant load; version 2 comes after a minute. */
function steadyWorld(arrivalsPerS: number, overrides: Partial<SimulationOptions> = {}): SimulationOptions {
  return {
    seed: 1,
    durationMs: 1_200_000,
    quietMs: 120_000,
    nodes: { count: 3, devices: 8 },
    gateways: 2,
    sampleEveryMs: 250,
    deployments: [
      {
        name: "chat",
        accelerators: 1,
        surge: 1,
        concurrencyMax: 8,
        autoscaling: {
          replicasMin: 4,
          replicasMax: 4,
          targetInFlight: 4,
          scaleUpDelayMs: 0,
          scaleDownDelayMs: 60_000,
          scaleToZeroDelayMs: 600_000,
          toleranceReplicas: 0.1,
          coldStartMsAssumed: 10_000,
          startBackoffMs: 1_000,
          startBackoffMsMax: 30_000,
        },
        arrivalsPerS: () => arrivalsPerS,
      },
    ],
    versions: [
      { version: "v1", deployAt: 0, behaviour: goodBehaviour },
      { version: "v2", deployAt: 60_000, behaviour: goodBehaviour },
    ],
    faults: noFaults,
    rollout: {
      stepIntervalMs: 1_000,
      crashesMax: 2,
      heartbeatTimeoutMs: 20_000,
      startTimeoutMs: 60_000,
      drainTimeoutMs: 30_000,
      gates: null,
    },
    ...overrides,
  };
}

describe("a rollout of four replicas", () => {
  test("takes one accelerator more and loses no request", () => {
    const result = simulate(steadyWorld(12));
    expect(result.rollouts.map(({ to, outcome }) => `${to} ${outcome}`)).toEqual(["v1 done", "v2 done"]);
    expect(result.peakReplicas.chat).toBe(5);
    expect(result.requests).toMatchObject({ shed: 0, expired: 0, restarted: 0 });
  });

  test("takes little longer than the starts and drains one after the other", () => {
    const { rollouts } = simulate(steadyWorld(12));
    const took = (rollouts[1]?.endedAt ?? 0) - (rollouts[1]?.startedAt ?? 0);
    // Four starts of 5 s (within 20 %), three drains of about one request, steps of at least a second.
    expect(took).toBeLessThan(1.2 * (4 * 5_000 * 1.2 + 4 * 2_000));
  });

  test.each([
    ["fails requests", { errorShare: 0.3 }],
    ["is twice as slow", { serviceMs: 1_600 }],
    ["crashes", { crashEveryMs: 3_000 }],
    ["never starts", { neverReady: true }],
  ])("goes back with the same bound when the new version %s", (_, behaviour) => {
    const { rollout, versions } = steadyWorld(12);
    const result = simulate(
      steadyWorld(12, {
        versions: [
          ...versions.slice(0, 1),
          { version: "v2", deployAt: 60_000, behaviour: { ...goodBehaviour, ...behaviour } },
        ],
        rollout: {
          ...rollout,
          gates: {
            errorRateMax: 0.05,
            errorRatioMax: 1,
            ttftRatioMax: 1.05,
            timePerOutputTokenRatioMax: 1.05,
            samplesMin: 20,
            falseAlarmMax: 0.01,
            unknownPassesAfterMs: null,
            timeoutMs: 600_000,
          },
        },
      }),
    );
    expect(result.violations).toEqual([]);
    expect(result.rollouts[1]?.outcome).toBe("rolledBack");
    expect(result.peakReplicas.chat).toBe(5);
    expect(result.requests).toMatchObject({ shed: 0, expired: 0 });
  });
});

test("a fleet at constant load settles: ups and downs stay within one replica of the mean", () => {
  const world = steadyWorld(15);
  const [deployment] = world.deployments;
  if (deployment === undefined) throw new Error("no deployment");
  const autoscaling = { ...deployment.autoscaling, replicasMin: 1, replicasMax: 12 };
  const result = simulate({
    ...world,
    quietMs: 600_000,
    versions: world.versions.slice(0, 1),
    deployments: [{ ...deployment, autoscaling }],
  });
  const settled = (result.targets.chat ?? []).filter(({ at }) => at > 120_000);
  // 15 requests/s of 0.87 s on average are 13 in flight: 3.3 replicas, and peaks need five or six.
  for (const { target } of settled) expect(target).toBeGreaterThanOrEqual(4);
  for (const { target } of settled) expect(target).toBeLessThanOrEqual(7);
  expect(settled.length).toBeLessThan(20);
});
