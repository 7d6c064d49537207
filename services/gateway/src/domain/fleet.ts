// Everything the gateway routes by: the last known traffic of every application and the last known state of every replica,
// and the endpoints that follow from them. Fed by documents, from the bus or from the file of the last run.
import {
  type DeploymentSpec,
  ReplicaPhase,
  type ReplicaStatus,
  type TrafficSet,
} from "@pilotlight/contracts";
import { logger } from "@pilotlight/telemetry";
import { Endpoint, type EndpointSettings, type EndpointVersion } from "./endpoint.ts";
import { Replica } from "./replica.ts";

export type FleetSettings = EndpointSettings & { inFlightPerReplicaMax: number };

/** The documents as they were said last. */
export type Documents = { traffic: TrafficSet[]; replicas: ReplicaStatus[] };

export class Fleet {
  readonly #settings: FleetSettings;
  readonly #traffic = new Map<string, TrafficSet>();
  /** Keyed by application, then by replica. */
  readonly #replicas = new Map<string, Map<string, Replica>>();
  /** Keyed by application, then by deployment and model name. */
  readonly #endpoints = new Map<string, Map<string, Endpoint>>();
  /** Model names and aliases; made anew when any endpoint comes or goes. */
  #names = new Map<string, Endpoint>();
  readonly #changeListeners = new Set<() => void>();
  readonly #goneListeners = new Set<(replica: Replica) => void>();

  constructor(settings: FleetSettings) {
    this.#settings = settings;
  }

  /** Takes in how an application's traffic is split. Older generations and repetitions change nothing. */
  applyTraffic(traffic: TrafficSet): void {
    const before = this.#traffic.get(traffic.application);
    if (before !== undefined && traffic.generation <= before.generation) return;
    this.#traffic.set(traffic.application, traffic);
    this.#rebuild(traffic.application);
    this.#nameEndpoints();
    this.#changed();
  }

  /** Takes in a replica's state. */
  applyReplica(status: ReplicaStatus): void {
    const { application, replicaId } = status;
    const own = this.#replicas.get(application) ?? new Map<string, Replica>();
    const existing = own.get(replicaId);
    if (existing !== undefined) existing.report(status, this.#settings.inFlightPerReplicaMax);
    else if (status.phase === ReplicaPhase.GONE) return;
    else own.set(replicaId, new Replica(status, this.#settings.inFlightPerReplicaMax));
    this.#replicas.set(application, own);
    if (existing?.isGone) this.#forget(existing);
    this.#rebuild(application);
    this.#changed();
  }

  /** Replicas of the last run that the bus does not know any more go. */
  keepOnly(replicaIds: ReadonlySet<string>): void {
    const unknown = this.#allReplicas().filter((replica) => !replicaIds.has(replica.replicaId));
    for (const replica of unknown) {
      logger("routes").warn("a replica of the last run is not known any more", {
        replicaId: replica.replicaId,
      });
      this.#forget(replica);
    }
    for (const application of new Set(unknown.map((replica) => replica.application)))
      this.#rebuild(application);
    if (unknown.length > 0) this.#changed();
  }

  /** The endpoint behind a `model` of a request. */
  resolve(name: string): Endpoint | undefined {
    return this.#names.get(name);
  }

  /** Every model name with its endpoint, without the aliases. */
  models(): Endpoint[] {
    return [...this.#names]
      .filter(([name, endpoint]) => name === endpoint.modelName)
      .map(([, endpoint]) => endpoint);
  }

  *endpoints(): Iterable<Endpoint> {
    for (const endpoints of this.#endpoints.values()) yield* endpoints.values();
  }

  get isEmpty(): boolean {
    return this.#traffic.size === 0;
  }

  documents(): Documents {
    return {
      traffic: [...this.#traffic.values()],
      replicas: this.#allReplicas().map((replica) => replica.status),
    };
  }

  onChange(listener: () => void): void {
    this.#changeListeners.add(listener);
  }

  /** Told when a replica will never be asked again. */
  onGone(listener: (replica: Replica) => void): void {
    this.#goneListeners.add(listener);
  }

  #allReplicas(): Replica[] {
    return [...this.#replicas.values()].flatMap((own) => [...own.values()]);
  }

  #changed(): void {
    for (const listener of this.#changeListeners) listener();
  }

  #forget(replica: Replica): void {
    const own = this.#replicas.get(replica.application);
    own?.delete(replica.replicaId);
    if (own?.size === 0) this.#replicas.delete(replica.application);
    for (const listener of this.#goneListeners) listener(replica);
  }

  /** Brings one application's endpoints up to date; endpoints keep their queues. */
  #rebuild(application: string): void {
    const wanted = groupByEndpoint(this.#traffic.get(application));
    const existing = this.#endpoints.get(application) ?? new Map<string, Endpoint>();
    for (const [key, endpoint] of existing) {
      if (wanted.has(key)) continue;
      existing.delete(key);
      endpoint.close();
    }
    const replicas = [...(this.#replicas.get(application)?.values() ?? [])];
    for (const [key, { deployment, modelName, versions }] of wanted) {
      const endpoint =
        existing.get(key) ?? new Endpoint({ application, deployment, modelName }, this.#settings);
      existing.set(key, endpoint);
      const numbers = new Set(versions.map(({ version }) => version));
      endpoint.update(
        versions,
        replicas.filter((replica) => replica.deployment === deployment && numbers.has(replica.versionNumber)),
      );
    }
    if (existing.size > 0) this.#endpoints.set(application, existing);
    else this.#endpoints.delete(application);
  }

  /** Model names first, in the order of applications; then `application/deployment` and `application`. */
  #nameEndpoints(): void {
    const names = new Map<string, Endpoint>();
    const all = [...this.endpoints()].sort(
      (a, b) => compare(a.application, b.application) || weightOf(b) - weightOf(a),
    );
    for (const endpoint of all) {
      const taken = names.get(endpoint.modelName);
      if (taken === undefined) names.set(endpoint.modelName, endpoint);
      else if (taken.application !== endpoint.application) {
        logger("routes").warn("two applications serve one model name; the first keeps it", {
          modelName: endpoint.modelName,
          applications: [taken.application, endpoint.application],
        });
      }
    }
    const deploymentsOf = (application: string) =>
      new Set([...(this.#endpoints.get(application)?.values() ?? [])].map(({ deployment }) => deployment))
        .size;
    for (const endpoint of all) {
      const { application, deployment } = endpoint;
      const aliases = deploymentsOf(application) === 1 ? [application] : [];
      for (const alias of [`${application}/${deployment}`, ...aliases])
        if (!names.has(alias)) names.set(alias, endpoint);
    }
    this.#names = names;
  }
}

type Group = { deployment: string; modelName: string; versions: EndpointVersion[] };

/** Versions of a deployment that answer to the same model name share an endpoint. */
function groupByEndpoint(traffic: TrafficSet | undefined): Map<string, Group> {
  const groups = new Map<string, Group>();
  const versions = [...(traffic?.weights ?? [])].sort((a, b) => a.version - b.version);
  for (const { version, weight, spec } of versions) {
    for (const deployment of spec?.deployments ?? []) {
      const modelName = modelNameOf(traffic?.application ?? "", deployment);
      const key = `${deployment.name}\n${modelName}`;
      const group = groups.get(key) ?? { deployment: deployment.name, modelName, versions: [] };
      group.versions.push({ version, weight, spec: deployment });
      groups.set(key, group);
    }
  }
  return groups;
}

const modelNameOf = (application: string, deployment: DeploymentSpec): string =>
  deployment.model?.name || `${application}/${deployment.name}`;

const weightOf = (endpoint: Endpoint): number =>
  endpoint.versions.reduce((sum, { weight }) => sum + weight, 0);
const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
