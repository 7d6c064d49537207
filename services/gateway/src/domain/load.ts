// How many requests came and failed, per endpoint and version, for the load samples.
//
// A request counts to the version that takes it; one that ends before a version was chosen, or still waits, counts to the
// endpoint's only version, or to version 0 while there are several.
import type { Endpoint } from "./endpoint.ts";

/** Version of requests for which none was chosen. */
export const NO_VERSION = 0;

type Counts = { requests: number; failures: number };
export type LoadRow = {
  version: number;
  inFlight: number;
  queued: number;
  requestsTotal: number;
  failuresTotal: number;
};

export class LoadBook {
  readonly #endpoints = new WeakMap<Endpoint, Map<number, Counts>>();

  /** A version has taken a request. */
  assigned(endpoint: Endpoint, version: number): void {
    this.#countsOf(endpoint, version).requests++;
  }

  /** A request ended; `version` is null when none had taken it. `isFailure`: by the platform's fault. */
  ended(endpoint: Endpoint, version: number | null, isFailure: boolean): void {
    const counts = this.#countsOf(endpoint, version ?? versionOfUnassigned(endpoint));
    if (version === null) counts.requests++;
    if (isFailure) counts.failures++;
  }

  /** What is to be told of an endpoint now. */
  rows(endpoint: Endpoint): LoadRow[] {
    const unassigned = versionOfUnassigned(endpoint);
    const versions = new Set(endpoint.versions.map(({ version }) => version)).add(unassigned);
    return [...versions].map((version) => {
      const { requests, failures } = this.#countsOf(endpoint, version);
      const queued = version === unassigned ? endpoint.queued : 0;
      let inFlight = 0;
      for (const replica of endpoint.replicas)
        if (replica.versionNumber === version) inFlight += replica.outstanding;
      return { version, inFlight, queued, requestsTotal: requests + queued, failuresTotal: failures };
    });
  }

  #countsOf(endpoint: Endpoint, version: number): Counts {
    const versions = this.#endpoints.get(endpoint) ?? new Map<number, Counts>();
    this.#endpoints.set(endpoint, versions);
    const counts = versions.get(version) ?? { requests: 0, failures: 0 };
    versions.set(version, counts);
    return counts;
  }
}

const versionOfUnassigned = (endpoint: Endpoint): number =>
  endpoint.versions.length === 1 ? (endpoint.versions[0]?.version ?? NO_VERSION) : NO_VERSION;
