// The rollout service in small: one application, one rollout at a time, its own view of the replicas, and checks of what
// it orders against what it saw.

import type { ReplicaBounds } from "../autoscaling/index.ts";
import { recordDecision, replayDecision } from "../record.ts";
import {
  isOver,
  nextRollout,
  type ReplicaCounts,
  type RolloutAction,
  type RolloutObservation,
  type RolloutPlan,
  type RolloutState,
  startRollout,
} from "../rollout/index.ts";
import type { AutoscalerShell, HeldReport } from "./autoscaler-shell.ts";
import type { Fleet, RealPhase, RealReplica, ReplicaNews } from "./fleet.ts";
import type { Traffic } from "./traffic.ts";
import type { World } from "./world.ts";

type Seen = { version: string; deployment: string; phase: RealPhase; revision: number };
type Outcome = {
  from: string | null;
  to: string;
  outcome: string;
  why: string;
  startedAt: number;
  endedAt: number;
};

export class RolloutShell {
  readonly outcomes: Outcome[] = [];
  readonly #world: World;
  readonly #fleet: Fleet;
  readonly #traffic: Traffic;
  readonly #autoscalers: readonly AutoscalerShell[];
  readonly #seen = new Map<string, Seen>();
  readonly #heardAt = new Map<string, number>();
  readonly #crashes = new Map<string, number>();
  readonly #bounds = new Map<string, Map<string, ReplicaBounds | null>>();
  readonly #reports = new Map<string, HeldReport>();
  #serving: string | null = null;
  #wanted: string | null = null;
  #plan: RolloutPlan | null = null;
  #state: RolloutState | null = null;
  #startedAt = 0;
  #revision = 0;
  #boundsGeneration = 0;
  #wake = 0;
  /** The targets that the rollout was told lately: what an earlier, higher one ordered may still drain. */
  #recentWanted: { at: number; wanted: number[] }[] = [];

  constructor(world: World, fleet: Fleet, traffic: Traffic, autoscalers: readonly AutoscalerShell[]) {
    this.#world = world;
    this.#fleet = fleet;
    this.#traffic = traffic;
    this.#autoscalers = autoscalers;
    fleet.listen((news) => this.#hear(news));
    for (const autoscaler of autoscalers) {
      autoscaler.onDecided((report) => {
        const known = this.#reports.get(autoscaler.deployment.name);
        if (known !== undefined && known.sequence >= report.sequence) return;
        this.#reports.set(autoscaler.deployment.name, report);
        this.step();
      });
    }
    fleet.onPlaced((replica) => this.#checkAccelerators(replica));
  }

  get isBusy(): boolean {
    return this.#state !== null && !isOver(this.#state);
  }

  deploy(version: string): void {
    this.#wanted = version;
    for (const autoscaler of this.#autoscalers) autoscaler.addVersion(version);
    this.step();
  }

  step(): void {
    const { now, options } = this.#world;
    const { rolloutAway } = options.faults;
    if (rolloutAway !== null && now >= rolloutAway.at && now < rolloutAway.at + rolloutAway.forMs) return;
    const latest =
      this.#plan === null || this.#state === null ? null : { to: this.#plan.to, state: this.#state };
    const next = nextRollout(this.#serving, this.#wanted, latest, false);
    if (next.kind === "start") this.#begin(next.from, next.to);
    if (this.#plan === null || this.#state === null || isOver(this.#state)) return;
    this.#decide(this.#plan, this.#state, next.kind === "supersede");
  }

  #begin(from: string | null, to: string): void {
    const { deployments, rollout } = this.#world.options;
    this.#plan = {
      ...rollout,
      from,
      to,
      deployments: deployments.map(({ name, accelerators, surge }) => {
        return { name, from: from === null ? null : { accelerators }, to: { accelerators }, surge };
      }),
    };
    this.#state = startRollout(this.#world.now, this.#plan);
    this.#startedAt = this.#world.now;
    this.#recentWanted = [];
  }

  #decide(plan: RolloutPlan, state: RolloutState, superseded: boolean): void {
    const { now } = this.#world;
    const observation = this.#observe(plan, superseded);
    const { decision, record } = recordDecision("rollout", now, observation, state, plan);
    if (replayDecision(record).kind !== "same")
      this.#world.violate("I9", "a rollout decision did not replay");
    this.#state = decision.state;
    const forgetMs = plan.drainTimeoutMs + 3_000;
    if ("wanted" in decision.state) {
      const wanted = decision.state.wanted.map(
        (count, index) => count ?? observation.deployments[index]?.from.ready ?? 0,
      );
      this.#recentWanted = [
        ...this.#recentWanted.filter((one) => now - one.at < forgetMs),
        { at: now, wanted },
      ];
    }
    for (const action of decision.actions) this.#act(action, observation, plan);
    if (decision.actions.length > 0) this.#publishBounds();
    // Only the latest wake-up counts, or every decision would start a chain of its own.
    const wake = ++this.#wake;
    if (decision.wakeAt !== null) {
      this.#world.events.after(decision.wakeAt - now, () => wake === this.#wake && this.step());
    }
    if (isOver(decision.state)) this.step();
  }

  #observe(plan: RolloutPlan, superseded: boolean): RolloutObservation {
    const { from, to } = plan;
    const counters = (version: string | null) =>
      version === null ? null : (this.#traffic.counters.get(version) ?? null);
    const heard = (version: string | null) =>
      version === null ? null : (this.#heardAt.get(version) ?? null);
    return {
      deployments: this.#autoscalers.map(({ deployment, target }) => ({
        name: deployment.name,
        wanted: target,
        from: this.#countReplicas(deployment.name, from),
        to: this.#countReplicas(deployment.name, to),
        held: this.#held(deployment.name, plan),
      })),
      counters: { from: counters(from), to: counters(to) },
      heardAt: { from: heard(from), to: heard(to) },
      crashes: this.#crashes.get(to) ?? 0,
      crashWhy: null,
      stop: superseded ? "superseded" : null,
    };
  }

  /** What the autoscaler said it holds; null while it has not obeyed the last orders. */
  #held(deployment: string, { from, to }: RolloutPlan): { from: number; to: number } | null {
    const report = this.#reports.get(deployment);
    if (report === undefined || report.generation !== this.#boundsGeneration) return null;
    return { from: from === null ? 0 : (report.held.get(from) ?? 0), to: report.held.get(to) ?? 0 };
  }

  #countReplicas(deployment: string, version: string | null): ReplicaCounts {
    const counts = { starting: 0, ready: 0, draining: 0 };
    for (const one of this.#seen.values()) {
      if (one.deployment !== deployment || one.version !== version) continue;
      if (one.phase === "starting" || one.phase === "ready" || one.phase === "draining") counts[one.phase]++;
    }
    return counts;
  }

  #act(action: RolloutAction, observation: RolloutObservation, plan: RolloutPlan): void {
    switch (action.kind) {
      case "setTraffic": {
        const revision = ++this.#revision;
        this.#checkTraffic(action.weights, observation, plan);
        this.#world.send(() => this.#traffic.setWeights(action.weights, revision));
        break;
      }
      case "setBounds":
        this.#bound(action.deployment, action.version, {
          replicasMin: action.replicasMin,
          replicasMax: action.replicasMax,
        });
        break;
      case "clearBounds":
        this.#bound(action.deployment, action.version, null);
        break;
      case "retireVersion":
        for (const bounds of this.#bounds.values()) bounds.delete(action.version);
        break;
      case "complete":
        if (action.outcome === "done") this.#serving = plan.to;
        this.outcomes.push({
          from: plan.from,
          to: plan.to,
          outcome: action.outcome,
          why: action.why,
          startedAt: this.#startedAt,
          endedAt: this.#world.now,
        });
        break;
      default:
        action satisfies never;
    }
  }

  #bound(deployment: string, version: string, bounds: ReplicaBounds | null): void {
    const known = this.#bounds.get(deployment) ?? new Map<string, ReplicaBounds | null>();
    this.#bounds.set(deployment, known.set(version, bounds));
  }

  /** Bounds go out whole, with a number that grows: a version that is not in the document has no replicas. */
  #publishBounds(): void {
    const generation = ++this.#boundsGeneration;
    for (const autoscaler of this.#autoscalers) {
      const bounds = new Map(this.#bounds.get(autoscaler.deployment.name));
      this.#world.send(() => autoscaler.setBounds(bounds, generation));
    }
  }

  #hear({ replica, phase, revision }: ReplicaNews): void {
    const known = this.#seen.get(replica.replicaId);
    if (known !== undefined && known.revision >= revision) return;
    const { version } = replica;
    this.#heardAt.set(version, this.#world.now);
    this.#seen.set(replica.replicaId, { version, deployment: replica.deployment.name, phase, revision });
    if (phase === "failed") this.#crashes.set(version, (this.#crashes.get(version) ?? 0) + 1);
    this.step();
  }

  /** A ready replica is heard of all the time. */
  heartbeat(): void {
    for (const { version, phase } of this.#seen.values()) {
      if (phase === "ready") this.#heardAt.set(version, this.#world.now);
    }
  }

  /** I3, against what the rollout knew: shares follow ready capacity and sum to 1. */
  #checkTraffic(
    weights: readonly { version: string; weight: number }[],
    observation: RolloutObservation,
    plan: RolloutPlan,
  ): void {
    const sum = weights.reduce((total, one) => total + one.weight, 0);
    if (Math.abs(sum - 1) > 1e-9) this.#world.violate("I3", `weights sum to ${sum}`);
    if (plan.from === null || weights.length < 2) return;
    for (const { wanted, from, to } of observation.deployments) {
      const ready = from.ready + to.ready;
      if (ready === 0 || observation.deployments.length > 1) continue;
      const needed = Math.min(Math.max(1, wanted ?? from.starting + from.ready), ready);
      for (const { version, weight } of weights) {
        const own = version === plan.to ? to.ready : from.ready;
        if (weight > own / needed + 1e-9) {
          this.#world.violate("I3", `${version} gets ${weight} with ${own} of ${needed} ready`);
        }
      }
    }
  }

  /**
   * I4, against what is really there, whenever a replica takes an accelerator during a rollout of one version by another.
   * Only its own deployment is looked at: another one may just be giving back what a falling load no longer needs.
   */
  #checkAccelerators({ deployment }: RealReplica): void {
    if (this.#plan === null || this.#plan.from === null || !this.isBusy || this.#recentWanted.length === 0)
      return;
    const index = this.#plan.deployments.findIndex(({ name }) => name === deployment.name);
    const used = [...this.#fleet.placed()].filter((replica) => replica.deployment === deployment).length;
    const wanted = Math.max(1, ...this.#recentWanted.map((one) => one.wanted[index] ?? 0));
    if (used > wanted + Math.max(1, deployment.surge)) {
      this.#world.violate("I4", `${used} replicas of ${deployment.name} with ${wanted} needed`);
    }
  }
}
