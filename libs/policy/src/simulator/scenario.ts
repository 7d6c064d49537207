// Random worlds: every option is drawn from one seed, and each run leaves some kinds of trouble out, because a world with
// all of them at once hides what a single one does.
import { createRandom, type Random } from "../random.ts";
import {
  type Faults,
  goodBehaviour,
  noFaults,
  type SimulationOptions,
  type VersionBehaviour,
} from "./options.ts";

/** The world of a seed. */
export function randomScenario(seed: number): SimulationOptions {
  const random = createRandom(seed);
  const pick = <T>(...choices: readonly [T, ...T[]]): T =>
    choices[Math.floor(random() * choices.length)] ?? choices[0];
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const names = pick(["chat"], ["chat"], ["chat", "embeddings"]);
  const deployments = names.map((name) => {
    const replicasMin = pick(0, 1, 1, 2);
    const base = between(0, 6);
    const peak = base + between(1, 8);
    const [from, until] = [between(20_000, 90_000), between(100_000, 200_000)];
    return {
      name,
      accelerators: pick(0.5, 1),
      surge: pick(1, 1, 2),
      concurrencyMax: pick(4, 8),
      autoscaling: {
        replicasMin,
        replicasMax: replicasMin + between(1, 5),
        targetInFlight: pick(2, 3),
        scaleUpDelayMs: pick(0, 1_000),
        scaleDownDelayMs: pick(5_000, 20_000),
        scaleToZeroDelayMs: 30_000,
        toleranceReplicas: 0.1,
        coldStartMsAssumed: 10_000,
        startBackoffMs: 500,
        startBackoffMsMax: 8_000,
      },
      arrivalsPerS: (now: number) => (now >= from && now < until ? peak : base),
    };
  });
  const deployAt = [0, between(30_000, 90_000)];
  if (random() < 0.3) deployAt.push((deployAt[1] ?? 0) + between(1, 60_000));
  return {
    seed,
    durationMs: 1_200_000,
    quietMs: 40_000,
    nodes: { count: between(3, 5), devices: 8 },
    gateways: between(1, 3),
    sampleEveryMs: 500,
    deployments,
    versions: deployAt.map((at, index) => ({
      version: `v${index + 1}`,
      deployAt: at,
      // The first version starts, or there would be nothing to watch.
      behaviour: randomBehaviour(random, index > 0),
    })),
    faults: randomFaults(random),
    rollout: {
      stepIntervalMs: pick(0, 1_000, 5_000),
      crashesMax: pick(0, 2),
      heartbeatTimeoutMs: 15_000,
      startTimeoutMs: 40_000,
      drainTimeoutMs: 20_000,
      gates: pick(null, {
        errorRateMax: 0.05,
        errorRatioMax: 1,
        ttftRatioMax: 1.05,
        timePerOutputTokenRatioMax: 1.05,
        samplesMin: 20,
        falseAlarmMax: 0.01,
        unknownPassesAfterMs: pick(null, 10_000),
        timeoutMs: 60_000,
      }),
    },
  };
}

function randomBehaviour(random: Random, mayBeBad: boolean): VersionBehaviour {
  const startMs = 1_000 + random() * 9_000;
  const good = { ...goodBehaviour, startMs, slowStartShare: random() < 0.3 ? 0.2 : 0 };
  const trouble = Math.floor(random() * 10);
  if (trouble === 0) return { ...good, crashEveryMs: 60_000 };
  if (!mayBeBad) return good;
  switch (trouble) {
    case 1:
      return { ...good, startFailureShare: 0.5 };
    case 2:
      return { ...good, startFailureShare: 1 };
    case 3:
      return { ...good, neverReady: true };
    case 4:
      return { ...good, errorShare: 0.3 };
    case 5:
      return { ...good, serviceMs: 2_000 };
    case 6:
      return { ...good, crashEveryMs: 4_000 };
    default:
      return good;
  }
}

function randomFaults(random: Random): Faults {
  const maybe = <T>(share: number, fault: T, none: T): T => (random() < share ? fault : none);
  const at = 20_000 + random() * 120_000;
  return {
    ...noFaults,
    sampleLoss: maybe(0.4, 0.2, 0),
    sampleDouble: maybe(0.4, 0.2, 0),
    messageMsMax: maybe(0.4, 300, 20),
    messageRedelivered: maybe(0.4, 0.05, 0),
    gatewaySilence: maybe(0.3, { at, forMs: 15_000 }, null),
    rolloutAway: maybe(0.3, { at, forMs: 60_000 }, null),
  };
}
