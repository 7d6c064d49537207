// The nodes of a zone tell each other over the bus which weights they have or load. What is said is repeated, and answered at
// once when somebody new speaks, so that nodes that start together know each other before their first range.
import { type Bus, publishSample, watchSamples } from "@pilotlight/bus";
import { EVENTS, WeightsHolding } from "@pilotlight/contracts";
import { PeerTable } from "../domain/peer-table.ts";

const REPEAT_MS = 1_000;
const LIFE_MS = 5 * REPEAT_MS;
const PEERS_MAX = 64;

export type PeersOptions = { nodeId: string; zone: string; url: string };

export type Peers = {
  table: PeerTable;
  /** This node's own weights. */
  hold(fingerprint: string, held: "loading" | "complete" | "gone"): void;
  close(): Promise<void>;
};

export function joinPeers(bus: Bus, { nodeId, zone, url }: PeersOptions): Peers {
  const table = new PeerTable({ lifeMs: LIFE_MS, peersMax: PEERS_MAX });
  const own = new Map<string, WeightsHolding>();
  const say = (fingerprint: string, holding: WeightsHolding): void =>
    publishSample(bus, EVENTS.weightsHeld, { nodeId, zone, fingerprint, url, holding });
  const watching = watchSamples(bus, EVENTS.weightsHeld, {}, (held) => {
    if (held.nodeId === nodeId || held.zone !== zone || !isPeerUrl(held.url)) return;
    const { fingerprint, holding } = held;
    if (holding === WeightsHolding.GONE) return table.gone(fingerprint, held.nodeId);
    const complete = holding === WeightsHolding.COMPLETE;
    const isNew = table.announced({ fingerprint, nodeId: held.nodeId, url: held.url, complete }, Date.now());
    const mine = own.get(fingerprint);
    if (isNew && mine !== undefined) say(fingerprint, mine);
  });
  const repeating = setInterval(() => {
    table.sweep(Date.now());
    for (const [fingerprint, holding] of own) say(fingerprint, holding);
  }, REPEAT_MS);
  repeating.unref();
  return {
    table,
    hold(fingerprint, held) {
      if (held === "gone") own.delete(fingerprint);
      else own.set(fingerprint, held === "complete" ? WeightsHolding.COMPLETE : WeightsHolding.LOADING);
      say(fingerprint, own.get(fingerprint) ?? WeightsHolding.GONE);
    },
    async close() {
      clearInterval(repeating);
      for (const fingerprint of own.keys()) say(fingerprint, WeightsHolding.GONE);
      await watching.close();
    },
  };
}

function isPeerUrl(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && /^https?:$/.test(url.protocol) && url.username === "" && url.search === "";
}
