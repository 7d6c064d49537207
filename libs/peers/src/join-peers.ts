// The nodes of a zone tell each other what they have or load. What is said is repeated, and answered at once when somebody new
// speaks, so that nodes that start together know each other before their first range.
import { type Peer, PeerTable } from "./peer-table.ts";

/** How often a node says what it has, unless told otherwise. */
export const DEFAULT_PEER_REPEAT_INTERVAL_MS = 1_000;
/** Who was not heard that many times in a row is gone. */
const REPEATS_MISSED_MAX = 5;
const PEERS_MAX = 64;

/** How much of something a node has. */
export type Held = "loading" | "complete" | "gone";

/** What one node says of one thing that it has. */
export type Heard = { nodeId: string; zone: string; key: string; url: string; held: Held };

/** The way to the other nodes. Lossy is good enough: everything is repeated. */
export type PeersPorts = {
  say(what: Heard): void;
  /** Calls back for whatever any node says, this one included. */
  listen(onHeard: (what: Heard) => void): { close(): Promise<void> };
};

export type PeersOptions = {
  nodeId: string;
  /** Nodes serve each other within it. */
  zone: string;
  /** Where others read from this node. */
  url: string;
  /** How often this node says what it has. The same on all nodes of a zone: it tells how long others are believed. */
  repeatIntervalMs?: number;
  /** Called when the peers of something that this node has change. */
  onChange?: (key: string) => void;
};

export type Peers = {
  /** Who else has it. The same array as long as nothing changed. */
  peers(key: string): readonly Peer[];
  /** What this node itself has of it. */
  hold(key: string, held: Held): void;
  close(): Promise<void>;
};

/** Joins the nodes of the zone. */
export function joinPeers(
  ports: PeersPorts,
  { nodeId, zone, url, repeatIntervalMs = DEFAULT_PEER_REPEAT_INTERVAL_MS, onChange }: PeersOptions,
): Peers {
  const own = new Map<string, Held>();
  const table = new PeerTable({
    lifeMs: REPEATS_MISSED_MAX * repeatIntervalMs,
    peersMax: PEERS_MAX,
    onChange: (key) => own.has(key) && onChange?.(key),
  });
  const say = (key: string, held: Held): void => ports.say({ nodeId, zone, key, url, held });
  const listening = ports.listen((heard) => {
    if (heard.nodeId === nodeId || heard.zone !== zone || !isPeerUrl(heard.url)) return;
    const { key, held } = heard;
    if (held === "gone") return table.gone(key, heard.nodeId);
    const complete = held === "complete";
    const isNew = table.announced({ key, nodeId: heard.nodeId, url: heard.url, complete }, Date.now());
    const mine = own.get(key);
    if (isNew && mine !== undefined) say(key, mine);
  });
  const repeating = setInterval(() => {
    table.sweep(Date.now());
    for (const [key, held] of own) say(key, held);
  }, repeatIntervalMs);
  repeating.unref();
  return {
    peers: (key) => table.peers(key),
    hold(key, held) {
      if (held === "gone") own.delete(key);
      else own.set(key, held);
      say(key, held);
    },
    async close() {
      clearInterval(repeating);
      for (const key of own.keys()) say(key, "gone");
      await listening.close();
    },
  };
}

function isPeerUrl(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && /^https?:$/.test(url.protocol) && url.username === "" && url.search === "";
}
