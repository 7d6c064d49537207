// One model name of one deployment: the versions that answer to it with their weights, their replicas, and whoever waits.
//
//   E1. A request takes a place at a replica by `enter` and gives it back by `leave`, exactly once.
//   E2. The table holds only replicas that may take requests now; whatever changes that makes a new one (R1 of policy).
import { type DeploymentSpec, ReplicaPhase } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import {
  buildRoutingTable,
  type Random,
  type RoutingTable,
  route,
  type VersionWeight,
} from "@pilotlight/policy";
import type { EjectionPolicy, Replica } from "./replica.ts";
import { type Entry, type RoomLimits, type Waiting, WaitingRoom } from "./waiting-room.ts";

export type EndpointIdentity = { application: string; deployment: string; modelName: string };

/** What one version contributes. */
export type EndpointVersion = { version: number; weight: number; spec: DeploymentSpec };

export type EndpointSettings = EjectionPolicy & {
  random: Random;
  /** Limits where the deployment sets none. */
  limits: RoomLimits;
};

/** A place at a replica, a place in the queue, or nobody left to ask. */
export type Entrance =
  | { kind: "replica"; replica: Replica }
  | ({ kind: "waiting" } & Waiting)
  | { kind: "exhausted" };

const EXHAUSTED: Entrance = { kind: "exhausted" };

export class Endpoint {
  readonly application: string;
  readonly deployment: string;
  readonly modelName: string;
  readonly #settings: EndpointSettings;
  readonly #room: WaitingRoom;
  #versions: readonly EndpointVersion[] = [];
  #weights: VersionWeight[] = [];
  #replicas: readonly Replica[] = [];
  #table: RoutingTable = buildRoutingTable([], []);
  #returnTimer: NodeJS.Timeout | null = null;

  constructor(identity: EndpointIdentity, settings: EndpointSettings) {
    this.application = identity.application;
    this.deployment = identity.deployment;
    this.modelName = identity.modelName;
    this.#settings = settings;
    this.#room = new WaitingRoom(settings.limits, () => this.describeReplicas());
  }

  get versions(): readonly EndpointVersion[] {
    return this.#versions;
  }

  get replicas(): readonly Replica[] {
    return this.#replicas;
  }

  get queued(): number {
    return this.#room.length;
  }

  /** No replica can take a request now, whatever its load. */
  get isCold(): boolean {
    return this.#table.groups.length === 0;
  }

  /** The newest version's settings of the deployment. */
  get spec(): DeploymentSpec | undefined {
    return this.#versions.at(-1)?.spec;
  }

  specOf(version: number): DeploymentSpec | undefined {
    return this.#versions.find((one) => one.version === version)?.spec;
  }

  /** Takes in versions (ascending) and replicas as they are now. */
  update(versions: readonly EndpointVersion[], replicas: readonly Replica[]): void {
    this.#versions = versions;
    this.#weights = versions.map(({ version, weight }) => ({ version: String(version), weight }));
    this.#replicas = replicas;
    this.#room.limits = this.limits;
    this.refresh();
  }

  get limits(): RoomLimits {
    const admission = this.spec?.admission;
    const { limits } = this.#settings;
    if (admission === undefined) return limits;
    return {
      ...limits,
      queueLengthMax: admission.queueLengthMax,
      queueWaitMsMax: admission.queueWaitMsMax,
    };
  }

  /** Builds the table anew after a replica changed its state, and serves whoever can be served now. */
  refresh(): void {
    const now = Date.now();
    const routable = this.#replicas.filter((replica) => replica.isRoutable(now));
    this.#table = buildRoutingTable(this.#weights, routable);
    this.#armReturn(now);
    this.#serveWaiting();
  }

  /** Takes a place at a replica, or in the queue. Throws `resourceExhausted` when there is no place in the queue either. */
  enter(entry: Entry): Entrance {
    if (!this.#room.isAhead(entry.kind)) {
      const replica = this.#take(this.#excluded(entry));
      if (replica !== null) return { kind: "replica", replica };
    }
    if (this.#allTried(entry)) return EXHAUSTED;
    return { kind: "waiting", ...this.#room.wait(entry) };
  }

  /** Gives a place back. */
  leave(replica: Replica): void {
    replica.outstanding--;
    if (this.#room.length > 0) this.#serveWaiting();
  }

  /** A replica did not answer, or cut an answer: it is left alone for a while. */
  eject(replica: Replica): void {
    replica.failed(Date.now(), this.#settings);
    this.refresh();
  }

  /** The name is no longer served: whoever waits is told. */
  close(): void {
    if (this.#returnTimer !== null) clearTimeout(this.#returnTimer);
    this.#room.close(
      new PlatformError("notFound", `the model '${this.modelName}' is no longer served`, {
        remedy: "See /v1/models.",
      }),
    );
  }

  /** Nobody is served any more because the process ends. */
  refuseWaiting(error: PlatformError): void {
    this.#room.close(error);
  }

  /** For people: what the replicas are doing. */
  describeReplicas(): string {
    const name = `${this.application}/${this.deployment}`;
    const now = Date.now();
    const ready = this.#replicas.filter((replica) => replica.isRoutable(now));
    if (ready.length > 0) return `all ${ready.length} replicas of ${name} are busy`;
    const starting = this.#replicas.filter(({ status }) => status.phase < ReplicaPhase.READY);
    const silent = this.#replicas.filter((replica) => replica.ejectedUntil > now);
    const failed = this.#replicas.find(({ status }) => status.failure !== undefined);
    const parts = [
      starting.length === 0 ? "" : `${starting.length} starting`,
      silent.length === 0 ? "" : `${silent.length} not answering`,
      failed === undefined ? "" : `the last failure was: ${failed.status.failure?.message}`,
    ].filter((part) => part !== "");
    return `no replica of ${name} is ready (${parts.length === 0 ? "none was started yet" : parts.join(", ")})`;
  }

  #take(excluded: ReadonlySet<string> | null): Replica | null {
    const answer = route(this.#table, { random: this.#settings.random, excluded });
    if (answer.kind !== "replica") return null;
    const replica = answer.replica as Replica;
    replica.outstanding++;
    return replica;
  }

  #excluded({ tried, fits }: Entry): ReadonlySet<string> | null {
    if (fits === null) return tried;
    const excluded = new Set(tried);
    for (const replica of this.#replicas) if (!fits(replica)) excluded.add(replica.replicaId);
    return excluded;
  }

  /** Every replica that could take it has failed it, and there is at least one: waiting would not help. */
  #allTried({ tried, fits }: Entry): boolean {
    if (tried === null || tried.size === 0) return false;
    let fitting = 0;
    for (const { replicas } of this.#table.groups) {
      for (const replica of replicas as Replica[]) {
        if (fits !== null && !fits(replica)) continue;
        if (!tried.has(replica.replicaId)) return false;
        fitting++;
      }
    }
    return fitting > 0;
  }

  #hasRoom(): boolean {
    for (const { replicas } of this.#table.groups) {
      for (const replica of replicas) if (replica.outstanding < replica.concurrencyMax) return true;
    }
    return false;
  }

  #serveWaiting(): void {
    // Whoever has waited may try again where it failed: the reason may be gone.
    this.#room.serve(
      () => this.#hasRoom(),
      (entry) => this.#take(this.#excluded({ ...entry, tried: null })),
    );
  }

  /** Wakes up when the first ejected replica may be asked again. */
  #armReturn(now: number): void {
    if (this.#returnTimer !== null) clearTimeout(this.#returnTimer);
    this.#returnTimer = null;
    let next = Number.POSITIVE_INFINITY;
    for (const { ejectedUntil } of this.#replicas)
      if (ejectedUntil > now) next = Math.min(next, ejectedUntil);
    if (Number.isFinite(next)) this.#returnTimer = setTimeout(() => this.refresh(), next - now + 1);
  }
}
