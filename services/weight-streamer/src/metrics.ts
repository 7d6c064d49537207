// What can be watched of a node's weights: every place and queue with what it holds and may hold (I10), and what loads took.
import { counter, gauge } from "@pilotlight/telemetry";
import type { FlightStats } from "@pilotlight/weights";
import type { WeightCache } from "./domain/index.ts";

const requests = counter({
  name: "pilotlight_weights_requests_total",
  help: "Ranges asked for, of sources and of other nodes: all, those asked for again after a failure, those asked for twice because slow.",
  labelNames: ["kind"],
});
const fromPeers = counter({
  name: "pilotlight_weights_peer_bytes_total",
  help: "Bytes of weights that came from other nodes.",
});
const digests = counter({
  name: "pilotlight_weights_digests_total",
  help: "Files whose SHA-256 was compared after their load, by outcome.",
  labelNames: ["outcome"],
});

/** Counts what a load took, once it has ended. */
export function countFlight(stats: FlightStats): void {
  requests.inc({ kind: "all" }, stats.requests);
  requests.inc({ kind: "again" }, stats.retries);
  requests.inc({ kind: "hedge" }, stats.hedges);
  fromPeers.inc(stats.bytesFromPeers);
}

export const countDigest = (right: boolean): void => digests.inc({ outcome: right ? "right" : "wrong" });

/** Measured whenever somebody looks. */
export function watchCache(cache: Pick<WeightCache, "places" | "activity">): void {
  gauge({
    name: "pilotlight_weights_place_bytes",
    help: "Shared memory and disk for weights: held, made ready for the next load, allowed.",
    labelNames: ["place", "kind"],
    collect() {
      for (const { place, bytesUsed, bytesReady, bytesMax } of cache.places()) {
        this.set({ place, kind: "held" }, bytesUsed);
        this.set({ place, kind: "ready" }, bytesReady);
        this.set({ place, kind: "max" }, bytesMax);
      }
    },
  });
  gauge({
    name: "pilotlight_weights_activity",
    help: "Leases that pin weights, repositories held and being loaded, ranges in flight and how many may be.",
    labelNames: ["kind"],
    collect() {
      for (const [kind, value] of Object.entries(cache.activity())) this.set({ kind }, value);
    },
  });
}
