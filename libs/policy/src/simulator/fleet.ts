// Nodes and replicas as they really are. Replicas are placed by the placement policy, start, crash, drain and go; every
// change is told to whoever listens, through messages that take their time and may overtake each other.
import { type PlacementNode, place } from "../placement/index.ts";
import type { SimulatedDeployment, VersionBehaviour } from "./options.ts";
import type { World } from "./world.ts";

export type RealPhase = "ordered" | "starting" | "ready" | "draining" | "failed" | "gone";

export type RealReplica = {
  replicaId: string;
  version: string;
  deployment: SimulatedDeployment;
  behaviour: VersionBehaviour;
  phase: RealPhase;
  since: number;
  orderedAt: number;
  /** Number of the change, so that a listener can ignore an older message that comes later. */
  revision: number;
  place: { nodeId: string; devices: { index: number; share: number }[] } | null;
  running: number;
};

/** What a message about a replica says. */
export type ReplicaNews = { replica: RealReplica; phase: RealPhase; since: number; revision: number };

const RETRY_PLACE_MS = 500;

export class Fleet {
  readonly #world: World;
  readonly #replicas = new Map<string, RealReplica>();
  readonly #listeners: ((news: ReplicaNews) => void)[] = [];
  readonly #onPlaced: ((replica: RealReplica) => void)[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  /** Called with a delay for each change of a replica. */
  listen(listener: (news: ReplicaNews) => void): void {
    this.#listeners.push(listener);
  }

  /** Called at the very moment when a replica takes its accelerator: for checks, not for controllers. */
  onPlaced(check: (replica: RealReplica) => void): void {
    this.#onPlaced.push(check);
  }

  /** Replicas that hold a place on a node. */
  *placed(): Generator<RealReplica> {
    for (const replica of this.#replicas.values()) if (replica.place !== null) yield replica;
  }

  order(
    replicaId: string,
    version: string,
    deployment: SimulatedDeployment,
    behaviour: VersionBehaviour,
  ): void {
    const { now } = this.#world;
    const replica: RealReplica = {
      replicaId,
      version,
      deployment,
      behaviour,
      phase: "ordered",
      since: now,
      orderedAt: now,
      revision: 0,
      place: null,
      running: 0,
    };
    this.#replicas.set(replicaId, replica);
    this.#world.send(() => this.#tryPlace(replica));
  }

  /** Tells a replica to drain; it goes when its last request has ended, or at the drain's deadline. */
  drain(replicaId: string): void {
    this.#world.send(() => {
      const replica = this.#replicas.get(replicaId);
      if (replica === undefined) return;
      if (replica.phase === "ordered" || replica.phase === "starting") return this.#leave(replica, "gone");
      if (replica.phase !== "ready") return;
      this.#enter(replica, "draining");
      if (replica.running === 0) return this.#leave(replica, "gone");
      this.#world.events.after(this.#world.options.rollout.drainTimeoutMs, () => {
        if (replica.phase === "draining") this.#leave(replica, "gone");
      });
    });
  }

  /** A request begins on a replica; false when it does not take it (any more). */
  begin(replicaId: string): RealReplica | null {
    const replica = this.#replicas.get(replicaId);
    if (replica === undefined || replica.phase !== "ready") return null;
    replica.running++;
    return replica;
  }

  /** A request has ended on a replica. */
  end(replica: RealReplica): void {
    replica.running--;
    if (replica.phase === "draining" && replica.running === 0) this.#leave(replica, "gone");
  }

  #tryPlace(replica: RealReplica): void {
    if (replica.phase !== "ordered") return;
    const { accelerators } = replica.deployment;
    const request = { accelerators, memoryMb: 1, acceleratorKind: null, avoidNodeIds: [] };
    const placement = place(request, this.#nodes(replica.deployment.name), "pack");
    if (placement.kind === "unplaceable") {
      this.#world.events.after(RETRY_PLACE_MS, () => this.#tryPlace(replica));
      return;
    }
    replica.place = { nodeId: placement.nodeId, devices: placement.devices };
    this.#enter(replica, "starting");
    for (const check of this.#onPlaced) check(replica);
    this.#start(replica);
  }

  #start(replica: RealReplica): void {
    const world = this.#world;
    const { behaviour } = replica;
    const slow = world.chance(behaviour.slowStartShare) ? 5 : 1;
    const startMs = behaviour.startMs * slow * (0.8 + 0.4 * world.random());
    const { startTimeoutMs } = world.options.rollout;
    const fails = behaviour.neverReady || startMs > startTimeoutMs;
    world.events.after(fails ? startTimeoutMs : startMs, () => {
      if (replica.phase !== "starting") return;
      if (fails || world.chance(behaviour.startFailureShare)) return this.#leave(replica, "failed");
      this.#enter(replica, "ready");
      if (behaviour.crashEveryMs === null) return;
      world.events.after(world.exponential(behaviour.crashEveryMs), () => {
        if (replica.phase === "ready" || replica.phase === "draining") this.#leave(replica, "failed");
      });
    });
  }

  #leave(replica: RealReplica, phase: "failed" | "gone"): void {
    replica.place = null;
    this.#enter(replica, phase);
    this.#replicas.delete(replica.replicaId);
  }

  #enter(replica: RealReplica, phase: RealPhase): void {
    replica.phase = phase;
    replica.since = this.#world.now;
    replica.revision++;
    const news = { replica, phase, since: replica.since, revision: replica.revision };
    for (const listener of this.#listeners) {
      this.#world.send(() => listener(news));
      if (this.#world.chance(0.02)) this.#world.send(() => listener(news));
    }
  }

  #nodes(deployment: string): PlacementNode[] {
    const { count, devices } = this.#world.options.nodes;
    const replicas = [...this.placed()];
    return Array.from({ length: count }, (_, index) => {
      const nodeId = `node-${index}`;
      const here = replicas.filter((replica) => replica.place?.nodeId === nodeId);
      const shares = here.flatMap((replica) => replica.place?.devices ?? []);
      return {
        nodeId,
        phase: "ready" as const,
        devices: Array.from({ length: devices }, (_unused, device) => ({
          index: device,
          kind: "sim",
          free: 1 - shares.reduce((sum, one) => sum + (one.index === device ? one.share : 0), 0),
        })),
        memoryFreeMb: 1_000_000,
        siblings: here.filter((replica) => replica.deployment.name === deployment).length,
      };
    });
  }
}
