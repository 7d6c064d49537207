// What the nodes of a zone say about their weights, over the bus.
import { type Bus, publishSample, watchSamples } from "@pilotlight/bus";
import { EVENTS, WeightsHolding } from "@pilotlight/contracts";
import type { Held, PeersPorts } from "@pilotlight/peers";

const WIRE: Record<Held, WeightsHolding> = {
  loading: WeightsHolding.LOADING,
  complete: WeightsHolding.COMPLETE,
  gone: WeightsHolding.GONE,
};
const HELD = new Map(Object.entries(WIRE).map(([held, wire]) => [wire, held as Held]));

/** The key is the weights' fingerprint. */
export const weightsHeldOn = (bus: Bus): PeersPorts => ({
  say: ({ key: fingerprint, held, ...node }) =>
    publishSample(bus, EVENTS.weightsHeld, { ...node, fingerprint, holding: WIRE[held] }),
  listen: (onHeard) =>
    watchSamples(bus, EVENTS.weightsHeld, {}, ({ nodeId, zone, url, fingerprint: key, holding }) =>
      onHeard({ nodeId, zone, url, key, held: HELD.get(holding) ?? "loading" }),
    ),
});
