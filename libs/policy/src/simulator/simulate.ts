// A whole application in a box: gateways, autoscalers, a rollout controller, nodes and replicas, with faults. The
// decisions are made by the very functions that the services call; everything around them is driven by one seed.
import { AutoscalerShell } from "./autoscaler-shell.ts";
import { Fleet } from "./fleet.ts";
import type { SimulatedDeployment, SimulationOptions } from "./options.ts";
import { RolloutShell } from "./rollout-shell.ts";
import { Traffic } from "./traffic.ts";
import { World } from "./world.ts";

export type SimulationResult = {
  /** Broken invariants, each kind once; empty when all is well. */
  violations: string[];
  rollouts: {
    from: string | null;
    to: string;
    outcome: string;
    why: string;
    startedAt: number;
    endedAt: number;
  }[];
  /** A rollout was still going on at the end. */
  unfinished: boolean;
  /** Targets over time, per deployment. */
  targets: Record<string, { at: number; target: number }[]>;
  requests: { completed: number; shed: number; expired: number; retried: number; restarted: number };
  /** Most replicas that held an accelerator at the same time, per deployment. */
  peakReplicas: Record<string, number>;
};

/** Runs a world from its options; the same options give the same result. */
export function simulate(options: SimulationOptions): SimulationResult {
  const world = new World(options);
  const fleet = new Fleet(world);
  const traffic = new Traffic(world, fleet);
  const autoscalers = options.deployments.map((deployment) => new AutoscalerShell(world, fleet, deployment));
  const rollout = new RolloutShell(world, fleet, traffic, autoscalers);
  const peakReplicas: Record<string, number> = {};
  fleet.onPlaced(({ deployment }) => {
    const used = [...fleet.placed()].filter((replica) => replica.deployment === deployment).length;
    peakReplicas[deployment.name] = Math.max(peakReplicas[deployment.name] ?? 0, used);
  });

  for (const { version, deployAt } of options.versions) {
    world.events.after(deployAt, () => rollout.deploy(version));
  }
  for (const deployment of options.deployments) scheduleArrivals(world, traffic, deployment);
  const tick = () => {
    for (const autoscaler of autoscalers) {
      autoscaler.sample(traffic);
      autoscaler.decide();
    }
    rollout.heartbeat();
    rollout.step();
    world.events.after(options.sampleEveryMs, tick);
  };
  tick();
  runUntilQuiet(world, rollout);
  return {
    violations: [...world.violations.values()],
    rollouts: rollout.outcomes,
    unfinished: rollout.isBusy,
    targets: Object.fromEntries(autoscalers.map((one) => [one.deployment.name, one.history])),
    requests: traffic.stats,
    peakReplicas,
  };
}

function runUntilQuiet(world: World, rollout: RolloutShell): void {
  const { durationMs, quietMs, versions } = world.options;
  let busyAt = Math.max(0, ...versions.map(({ deployAt }) => deployAt));
  while (world.now < durationMs && world.now < busyAt + quietMs) {
    world.events.runUntil(Math.min(durationMs, world.now + 1_000));
    if (rollout.isBusy) busyAt = Math.max(busyAt, world.now);
  }
}

/** A Poisson process whose rate changes: times between arrivals are drawn anew at least every half second. */
function scheduleArrivals(world: World, traffic: Traffic, deployment: SimulatedDeployment): void {
  const lookMs = 500;
  const next = () => {
    const perMs = deployment.arrivalsPerS(world.now) / 1000;
    const waitMs = perMs <= 0 ? Number.POSITIVE_INFINITY : world.exponential(1 / perMs);
    if (waitMs > lookMs) {
      world.events.after(lookMs, next);
      return;
    }
    world.events.after(waitMs, () => {
      traffic.arrive(deployment);
      next();
    });
  };
  next();
}
