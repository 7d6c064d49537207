// What routing sees of the world: ready replicas with their load, and the share of each version.

/** One ready replica. The gateway counts `outstanding` up and down in place: it is the hot path's own number. */
export type RoutableReplica = {
  readonly replicaId: string;
  readonly version: string;
  /** Requests that it takes at the same time; more would only wait inside it. */
  readonly concurrencyMax: number;
  /** Requests sent to it and not yet finished. */
  outstanding: number;
};

/** Version and its share of traffic in [0, 1]. */
export type VersionWeight = { version: string; weight: number };

export type Route =
  | { kind: "replica"; replica: RoutableReplica }
  /** Every ready replica that may be taken is full: wait for one, then ask again. */
  | { kind: "saturated" }
  /** There is no ready replica at all, or none that was not tried already. */
  | { kind: "none" };
