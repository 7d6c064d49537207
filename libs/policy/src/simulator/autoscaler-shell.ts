// The autoscaler service in small: it keeps the rows of one deployment's replicas, hears samples and replica news, runs
// the policy, and checks what it decided.
import {
  type AutoscalingState,
  addSample,
  emptyLoadWindow,
  initialAutoscalingState,
  type LoadWindow,
  observeLoad,
  type ReplicaBounds,
  type ReplicaObservation,
  type VersionObservation,
} from "../autoscaling/index.ts";
import { recordDecision, replayDecision } from "../record.ts";
import type { Fleet, ReplicaNews } from "./fleet.ts";
import type { SimulatedDeployment } from "./options.ts";
import type { Traffic } from "./traffic.ts";
import type { World } from "./world.ts";

const LOAD_OPTIONS = { staleAfterMs: 1_500, forgetAfterMs: 20_000 };

/** What the autoscaler says after a decision. */
export type HeldReport = { sequence: number; generation: number; held: ReadonlyMap<string, number> };

type Row = ReplicaObservation & { version: string; orderedAt: number; revision: number };

export class AutoscalerShell {
  readonly deployment: SimulatedDeployment;
  /** Every target, with its time, as it changed. */
  readonly history: { at: number; target: number }[] = [];
  readonly #world: World;
  readonly #fleet: Fleet;
  readonly #versions: string[] = [];
  readonly #rows = new Map<string, Row>();
  readonly #windows = new Map<string, LoadWindow>();
  readonly #onDecided: ((report: HeldReport) => void)[] = [];
  #reported = "";
  #bounds: ReadonlyMap<string, ReplicaBounds | null> = new Map();
  #generation = 0;
  readonly #coldStartsMs: number[] = [];
  #state: AutoscalingState = initialAutoscalingState();
  #decisions = 0;

  constructor(world: World, fleet: Fleet, deployment: SimulatedDeployment) {
    this.#world = world;
    this.#fleet = fleet;
    this.deployment = deployment;
    fleet.listen((news) => this.#hear(news));
  }

  get target(): number | null {
    return this.#state.target;
  }

  addVersion(version: string): void {
    this.#versions.push(version);
  }

  /** Takes the bounds of all versions; an older document that comes late is ignored. */
  setBounds(bounds: ReadonlyMap<string, ReplicaBounds | null>, generation: number): void {
    if (generation <= this.#generation) return;
    this.#generation = generation;
    this.#bounds = bounds;
    this.decide();
  }

  /** Called, with a delay, after every decision that changed something: which bounds it obeyed, and what is held now. */
  onDecided(hear: (report: HeldReport) => void): void {
    this.#onDecided.push(hear);
  }

  /** Reads the samples that get through. */
  sample(traffic: Traffic): void {
    const { sampleLoss, sampleDouble, gatewaySilence } = this.#world.options.faults;
    const { now } = this.#world;
    const silent =
      gatewaySilence !== null && now >= gatewaySilence.at && now < gatewaySilence.at + gatewaySilence.forMs;
    for (const { version, sample } of traffic.samples(this.deployment, this.#versions)) {
      if (this.#world.chance(sampleLoss) || (silent && sample.gatewayId === "gateway-0")) continue;
      const copies = this.#world.chance(sampleDouble) ? 2 : 1;
      for (let i = 0; i < copies; i++) {
        this.#windows.set(version, addSample(this.#windows.get(version) ?? emptyLoadWindow, sample));
      }
    }
  }

  decide(): void {
    const { now } = this.#world;
    const versions = this.#versions.map((version) => this.#observe(version));
    const observation = { versions, coldStartsMs: this.#coldStartsMs.slice(-15) };
    const before = this.#state;
    const config = this.deployment.autoscaling;
    const { decision, record } = recordDecision("autoscaling", now, observation, before, config);
    // Replaying costs as much as deciding; every 16th is enough to notice a decision that depends on more than its input.
    if (this.#decisions++ % 16 === 0 && replayDecision(record).kind !== "same") {
      this.#world.violate("I9", "a decision did not replay");
    }
    const unknown = versions.some(({ load, replicas }) => {
      return load === null ? replicas.some(({ phase }) => phase === "ready") : !load.complete;
    });
    const target = decision.state.target ?? 0;
    if (unknown && before.target !== null && target < before.target) {
      this.#world.violate("unknown", `${before.target} -> ${target} on an incomplete observation`);
    }
    if (target < config.replicasMin || target > config.replicasMax) {
      this.#world.violate("limits", `target ${target}`);
    }
    if (target !== before.target) this.history.push({ at: now, target });
    this.#state = decision.state;
    for (const action of decision.actions) {
      switch (action.kind) {
        case "startReplica":
          this.#start(action.version, `${this.deployment.name}-${action.version}-${action.ordinal}`);
          break;
        case "drainReplica":
          this.#drain(action.replicaId);
          break;
        case "removeReplica":
          this.#rows.delete(action.replicaId);
          break;
        default:
          action satisfies never;
      }
    }
    this.#report();
  }

  #report(): void {
    const held = new Map<string, number>();
    for (const { version, phase } of this.#rows.values()) {
      if (phase !== "failed") held.set(version, (held.get(version) ?? 0) + 1);
    }
    const text = JSON.stringify([this.#generation, ...held]);
    if (text === this.#reported) return;
    this.#reported = text;
    const report = { sequence: this.#decisions, generation: this.#generation, held };
    for (const hear of this.#onDecided) this.#world.send(() => hear(report));
  }

  #observe(version: string): VersionObservation {
    const window = this.#windows.get(version) ?? emptyLoadWindow;
    const bounds = this.#bounds.get(version);
    return {
      version,
      load: observeLoad(this.#world.now, window, LOAD_OPTIONS),
      bounds: bounds === undefined ? { replicasMin: 0, replicasMax: 0 } : bounds,
      replicas: [...this.#rows.values()]
        .filter((row) => row.version === version)
        .map(({ replicaId, phase, since, inFlight }) => ({ replicaId, phase, since, inFlight })),
    };
  }

  #start(version: string, replicaId: string): void {
    const { now } = this.#world;
    if (this.#rows.has(replicaId)) this.#world.violate("ids", `${replicaId} was given twice`);
    this.#rows.set(replicaId, {
      replicaId,
      version,
      phase: "starting",
      since: now,
      orderedAt: now,
      inFlight: null,
      revision: 0,
    });
    const behaviour = this.#world.options.versions.find((one) => one.version === version)?.behaviour;
    if (behaviour !== undefined) this.#fleet.order(replicaId, version, this.deployment, behaviour);
  }

  #drain(replicaId: string): void {
    const row = this.#rows.get(replicaId);
    if (row === undefined) return;
    this.#rows.set(replicaId, { ...row, phase: "draining", since: this.#world.now });
    this.#fleet.drain(replicaId);
  }

  #hear({ replica, phase, since, revision }: ReplicaNews): void {
    const row = this.#rows.get(replica.replicaId);
    if (row === undefined || revision <= row.revision) return;
    if (phase === "gone") this.#rows.delete(replica.replicaId);
    else if (phase === "failed" && row.phase === "draining") this.#rows.delete(replica.replicaId);
    else if (row.phase === "draining") this.#rows.set(replica.replicaId, { ...row, revision });
    else if (phase === "ready" || phase === "failed") {
      if (phase === "ready") this.#coldStartsMs.push(since - row.orderedAt);
      this.#rows.set(replica.replicaId, { ...row, phase, since, revision });
    }
    this.decide();
  }
}
