// What was heard: bounds, replicas, load. Documents bring the first two back after a restart; load is only true now.
import {
  type BoundsSet,
  type LoadSampled,
  ReplicaPhase,
  timestampMs,
  type WorkerLoadSampled,
} from "@pilotlight/contracts";
import {
  addSample,
  emptyLoadWindow,
  forgetGateways,
  type LoadObservation,
  type LoadOptions,
  type LoadWindow,
  observeLoad,
} from "@pilotlight/policy";
import type { ReplicaStatus } from "./replica.ts";

/** `application/deployment`: what is decided about. Both are DNS labels. */
export type Key = string;
export const keyOf = (of: { application: string; deployment: string }): Key =>
  `${of.application}/${of.deployment}`;
export const partsOf = (key: Key): { application: string; deployment: string } => {
  const at = key.indexOf("/");
  return { application: key.slice(0, at), deployment: key.slice(at + 1) };
};

/** Requests that wait in a gateway before a version was chosen. */
const NO_VERSION = 0;

export type Heard = ReturnType<typeof createHeard>;

/** Nothing was heard yet. */
export function createHeard(options: LoadOptions) {
  const bounds = new Map<string, BoundsSet>();
  const replicas = new Map<Key, Map<string, ReplicaStatus>>();
  const windows = new Map<Key, Map<number, LoadWindow>>();
  const keyOfReplica = new Map<string, Key>();
  const inFlight = new Map<string, number>();

  return {
    /** Notes bounds; gives the deployments that they are about, before and now. */
    noteBounds(message: BoundsSet): Key[] {
      const known = bounds.get(message.application);
      if (known !== undefined && known.generation > message.generation) return [];
      if (message.versions.length === 0) bounds.delete(message.application);
      else bounds.set(message.application, message);
      const keys = new Set([...(known === undefined ? [] : keysOf(known)), ...keysOf(message)]);
      const now = new Set(keysOf(message));
      for (const key of keys) if (!now.has(key)) windows.delete(key);
      return [...keys];
    },
    noteReplica(status: ReplicaStatus): Key {
      const key = keyOf(status);
      const own = replicas.get(key) ?? new Map<string, ReplicaStatus>();
      own.set(status.replicaId, status);
      replicas.set(key, own);
      keyOfReplica.set(status.replicaId, key);
      return key;
    },
    /** Notes a sample; gives the deployment, or null when nobody has ordered it. */
    noteLoad(message: LoadSampled, now: number): Key | null {
      const key = keyOf(message);
      if (!bounds.has(message.application)) return null;
      const own = windows.get(key) ?? new Map<number, LoadWindow>();
      windows.set(key, own);
      const came = Number(message.requestsTotal);
      own.set(
        message.version,
        addSample(own.get(message.version) ?? emptyLoadWindow, {
          gatewayId: message.gatewayId,
          sampledAt: message.at === undefined ? now : timestampMs(message.at),
          inFlight: message.inFlight,
          queued: message.queued,
          arrivedTotal: came,
          completedTotal: came - message.inFlight - message.queued,
        }),
      );
      return key;
    },
    noteWorker(sample: WorkerLoadSampled): void {
      if (keyOfReplica.has(sample.replicaId)) inFlight.set(sample.replicaId, sample.running + sample.waiting);
    },
    boundsOf: (application: string): BoundsSet | undefined => bounds.get(application),
    keys: (): Key[] => [...new Set([...[...bounds.values()].flatMap(keysOf), ...replicas.keys()])],
    /** The deployment of a replica that reported itself. */
    keyOfReplica: (replicaId: string): Key | undefined => keyOfReplica.get(replicaId),
    statusesOf: (key: Key): ReadonlyMap<string, ReplicaStatus> => replicas.get(key) ?? new Map(),
    inFlightOf: (replicaId: string): number | null => inFlight.get(replicaId) ?? null,
    /** The load of a version; requests without a version count to the one that is named. */
    loadOf(key: Key, version: number, withUnassigned: boolean, now: number): LoadObservation | null {
      const own = windows.get(key);
      const assigned = observeLoad(now, fresh(own, version, now), options);
      if (!withUnassigned) return assigned;
      return together(assigned, observeLoad(now, fresh(own, NO_VERSION, now), options));
    },
    /** Forgets replicas that are gone and that no row speaks of. */
    forgetGone(key: Key, rows: ReadonlyMap<string, unknown>): void {
      const own = replicas.get(key);
      for (const [id, status] of own ?? []) {
        if (status.phase !== ReplicaPhase.GONE || rows.has(id)) continue;
        own?.delete(id);
        keyOfReplica.delete(id);
        inFlight.delete(id);
      }
      if (own?.size === 0) replicas.delete(key);
    },
  };

  function fresh(own: Map<number, LoadWindow> | undefined, version: number, now: number): LoadWindow {
    const window = own?.get(version);
    if (own === undefined || window === undefined) return emptyLoadWindow;
    const kept = forgetGateways(now, window, options);
    if (kept !== window) own.set(version, kept);
    return kept;
  }
}

const keysOf = (message: BoundsSet): Key[] =>
  message.versions.flatMap(({ deployments }) =>
    deployments.map(({ deployment }) => keyOf({ application: message.application, deployment })),
  );

function together(a: LoadObservation | null, b: LoadObservation | null): LoadObservation | null {
  if (a === null || b === null) return a ?? b;
  const plus = (one: number | null, other: number | null) =>
    one === null || other === null ? null : one + other;
  return {
    inFlight: a.inFlight + b.inFlight,
    queued: a.queued + b.queued,
    arrivedPerS: plus(a.arrivedPerS, b.arrivedPerS),
    completedPerS: plus(a.completedPerS, b.completedPerS),
    complete: a.complete && b.complete,
  };
}
