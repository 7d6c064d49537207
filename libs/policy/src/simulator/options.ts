// What a simulated world is made of. Times in ms, rates per second.
import type { AutoscalingConfig } from "../autoscaling/index.ts";
import type { GateConfig } from "../gates/index.ts";

/** How replicas of one version behave. */
export type VersionBehaviour = {
  /** From placed to ready. */
  startMs: number;
  /** Share of starts that take five times as long. */
  slowStartShare: number;
  /** Share of starts that fail. */
  startFailureShare: number;
  /** It never becomes ready; the node agent gives up after the start timeout. */
  neverReady: boolean;
  /** Mean time between crashes of one ready replica; null: it never crashes. */
  crashEveryMs: number | null;
  /** Share of requests that fail. */
  errorShare: number;
  /** Mean time that one request takes. */
  serviceMs: number;
};

export type SimulatedVersion = { version: string; deployAt: number; behaviour: VersionBehaviour };

export type SimulatedDeployment = {
  name: string;
  accelerators: number;
  surge: number;
  /** Requests that one replica takes at the same time. */
  concurrencyMax: number;
  autoscaling: AutoscalingConfig;
  /** Requests per second at a time. */
  arrivalsPerS: (now: number) => number;
};

export type Faults = {
  /** Shares of load samples that are lost, or come twice. */
  sampleLoss: number;
  sampleDouble: number;
  /** Time that a control message takes, and the share that is lost and comes a second later. */
  messageMsMax: number;
  messageRedelivered: number;
  /** A gateway is silent for a while. */
  gatewaySilence: { at: number; forMs: number } | null;
  /** The rollout controller is away for a while. */
  rolloutAway: { at: number; forMs: number } | null;
};

export type SimulationOptions = {
  seed: number;
  /** The longest run; it ends earlier `quietMs` after the last version was deployed and the last rollout ended. */
  durationMs: number;
  quietMs: number;
  nodes: { count: number; devices: number };
  gateways: number;
  sampleEveryMs: number;
  deployments: readonly SimulatedDeployment[];
  versions: readonly SimulatedVersion[];
  faults: Faults;
  rollout: {
    stepIntervalMs: number;
    crashesMax: number;
    heartbeatTimeoutMs: number;
    startTimeoutMs: number;
    drainTimeoutMs: number;
    gates: (GateConfig & { unknownPassesAfterMs: number | null; timeoutMs: number }) | null;
  };
};

export const noFaults: Faults = {
  sampleLoss: 0,
  sampleDouble: 0,
  messageMsMax: 20,
  messageRedelivered: 0,
  gatewaySilence: null,
  rolloutAway: null,
};

export const goodBehaviour: VersionBehaviour = {
  startMs: 5_000,
  slowStartShare: 0,
  startFailureShare: 0,
  neverReady: false,
  crashEveryMs: null,
  errorShare: 0,
  serviceMs: 800,
};
