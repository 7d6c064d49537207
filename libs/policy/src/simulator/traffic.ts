// Gateways and the requests that go through them: admission, routing, retries, load samples, counters for the gates.
import { AdmissionQueue } from "../admission/index.ts";
import type { LoadSample } from "../autoscaling/index.ts";
import { addDuration, noCounters, type VersionCounters } from "../gates/index.ts";
import {
  buildRoutingTable,
  type RoutableReplica,
  type RoutingTable,
  route,
  type VersionWeight,
} from "../routing/index.ts";
import type { Fleet, RealReplica, ReplicaNews } from "./fleet.ts";
import type { SimulatedDeployment } from "./options.ts";
import type { World } from "./world.ts";

type Request = { arrivedAt: number; tried: Set<string> };

type Known = { routable: RoutableReplica; revision: number; ready: boolean };

/** One deployment as one gateway sees it. */
class Door {
  readonly gatewayId: string;
  readonly deployment: SimulatedDeployment;
  readonly queue: AdmissionQueue<Request>;
  readonly known = new Map<string, Known>();
  readonly arrived = new Map<string, number>();
  readonly completed = new Map<string, number>();
  readonly inFlight = new Map<string, number>();
  table: RoutingTable = { groups: [] };

  constructor(gatewayId: string, deployment: SimulatedDeployment) {
    this.gatewayId = gatewayId;
    this.deployment = deployment;
    this.queue = new AdmissionQueue({
      queueLengthMax: 500,
      queueWaitMsMax: 60_000,
      retryAfterMsMin: 100,
      retryAfterMsMax: 30_000,
    });
  }
}

const bump = (counts: Map<string, number>, key: string, by: number) =>
  counts.set(key, (counts.get(key) ?? 0) + by);

export class Traffic {
  readonly stats = { completed: 0, shed: 0, expired: 0, retried: 0, restarted: 0 };
  readonly counters = new Map<string, VersionCounters>();
  readonly #world: World;
  readonly #fleet: Fleet;
  readonly #doors: Door[];
  #weights: VersionWeight[] = [];
  #weightsRevision = 0;

  constructor(world: World, fleet: Fleet) {
    this.#world = world;
    this.#fleet = fleet;
    const ids = Array.from({ length: world.options.gateways }, (_, index) => `gateway-${index}`);
    this.#doors = ids.flatMap((id) =>
      world.options.deployments.map((deployment) => new Door(id, deployment)),
    );
    for (const door of this.#doors) {
      fleet.listen((news) => this.#hear(door, news));
    }
  }

  /** Takes a new traffic split; an older one that comes late is ignored. */
  setWeights(weights: VersionWeight[], revision: number): void {
    if (revision <= this.#weightsRevision) return;
    this.#weightsRevision = revision;
    this.#weights = weights;
    for (const door of this.#doors) this.#rebuild(door);
  }

  /** The version that gets most of the traffic; the queue is counted as its load. */
  get mainVersion(): string | null {
    return this.#weights.toSorted((a, b) => b.weight - a.weight)[0]?.version ?? null;
  }

  /** A request comes to a random gateway. */
  arrive(deployment: SimulatedDeployment): void {
    const doors = this.#doors.filter((door) => door.deployment === deployment);
    const door = doors[Math.floor(this.#world.random() * doors.length)];
    if (door === undefined) return;
    this.#dispatch(door, { arrivedAt: this.#world.now, tried: new Set() }, false);
  }

  /** What every gateway says of every version of a deployment now. */
  samples(
    deployment: SimulatedDeployment,
    versions: readonly string[],
  ): { version: string; sample: LoadSample }[] {
    const doors = this.#doors.filter((door) => door.deployment === deployment);
    return doors.flatMap((door) => {
      for (const { item } of door.queue.expire(this.#world.now)) this.#expire(item);
      return versions.map((version) => ({
        version,
        sample: {
          gatewayId: door.gatewayId,
          sampledAt: this.#world.now,
          inFlight: door.inFlight.get(version) ?? 0,
          queued: version === this.mainVersion ? door.queue.length : 0,
          arrivedTotal: door.arrived.get(version) ?? 0,
          completedTotal: door.completed.get(version) ?? 0,
        },
      }));
    });
  }

  #expire(_request: Request): void {
    this.stats.expired++;
  }

  #hear(door: Door, news: ReplicaNews): void {
    const { replica, revision } = news;
    if (replica.deployment !== door.deployment) return;
    let known = door.known.get(replica.replicaId);
    if (known !== undefined && known.revision >= revision) return;
    if (known === undefined) {
      const { replicaId, version } = replica;
      const routable = { replicaId, version, concurrencyMax: door.deployment.concurrencyMax, outstanding: 0 };
      known = { routable, revision, ready: false };
      door.known.set(replicaId, known);
    }
    known.revision = revision;
    known.ready = news.phase === "ready";
    this.#rebuild(door);
    this.#pump(door);
  }

  #rebuild(door: Door): void {
    const ready = [...door.known.values()].filter((one) => one.ready).map((one) => one.routable);
    door.table = buildRoutingTable(this.#weights, ready);
  }

  #pump(door: Door): void {
    while (door.queue.length > 0 && route(door.table, { random: this.#world.random }).kind === "replica") {
      const ticket = door.queue.take(this.#world.now);
      if (ticket === null) return;
      if (!this.#dispatch(door, ticket.item, true)) return;
    }
  }

  /** Sends a request to a replica, or queues it. False when it had to be queued or was shed. */
  #dispatch(door: Door, request: Request, wasQueued: boolean): boolean {
    if (!wasQueued && door.queue.length > 0) return this.#enqueue(door, request);
    for (;;) {
      const chosen = route(door.table, { random: this.#world.random, excluded: request.tried });
      if (chosen.kind !== "replica") return this.#enqueue(door, request);
      const { replicaId } = chosen.replica;
      if (door.known.get(replicaId)?.ready !== true) {
        this.#world.violate("I2", `${replicaId} was chosen although it is known not to be ready`);
      }
      const replica = this.#fleet.begin(replicaId);
      if (replica !== null) {
        this.#run(door, request, chosen.replica, replica);
        return true;
      }
      // It drains or is gone, and the news is still on its way: try another one.
      request.tried.add(replicaId);
      this.stats.retried++;
    }
  }

  #enqueue(door: Door, request: Request): boolean {
    request.tried.clear();
    const offer = door.queue.offer(this.#world.now, request, { deadlineAt: null, readyAt: null });
    if (offer.kind === "shed") {
      this.stats.shed++;
      if (!(offer.retryAfterMs > 0)) this.#world.violate("A3", `Retry-After of ${offer.retryAfterMs} ms`);
    }
    return false;
  }

  #run(door: Door, request: Request, routable: RoutableReplica, replica: RealReplica): void {
    const { version, behaviour } = replica;
    routable.outstanding++;
    bump(door.inFlight, version, 1);
    bump(door.arrived, version, 1);
    const serviceMs = behaviour.serviceMs * Math.exp(0.4 * this.#world.normal());
    this.#world.events.after(serviceMs, () => {
      routable.outstanding--;
      bump(door.inFlight, version, -1);
      if (replica.phase === "failed" || replica.phase === "gone") {
        // The replica went away under it: the stream is continued elsewhere (I1).
        this.stats.restarted++;
        this.#dispatch(door, request, true);
        return;
      }
      this.#fleet.end(replica);
      bump(door.completed, version, 1);
      this.stats.completed++;
      this.#count(version, serviceMs, this.#world.chance(behaviour.errorShare));
      this.#pump(door);
    });
  }

  #count(version: string, ttftMs: number, failed: boolean): void {
    const before = this.counters.get(version) ?? noCounters;
    this.counters.set(version, {
      requests: before.requests + 1,
      errors: before.errors + (failed ? 1 : 0),
      ttft: failed ? before.ttft : addDuration(before.ttft, ttftMs),
      timePerOutputToken: before.timePerOutputToken,
    });
  }
}
