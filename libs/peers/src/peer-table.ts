// Which other nodes have what, from what they say of themselves. Lists change only when something does, so that whoever reads
// sees at a glance that nothing is new. No clock inside: callers bring it.

/** Another node that has something, or loads it now. */
export type Peer = {
  nodeId: string;
  /** Where it serves it: http://HOST:PORT. */
  url: string;
  /** It has everything. */
  complete: boolean;
};

type Announcement = Peer & { key: string };

type Seen = { peer: Peer; seenAt: number };

const NOBODY: readonly Peer[] = [];

export class PeerTable {
  readonly #seen = new Map<string, Map<string, Seen>>();
  readonly #lists = new Map<string, readonly Peer[]>();
  readonly #lifeMs: number;
  readonly #peersMax: number;
  readonly #onChange: ((key: string) => void) | undefined;

  /** An announcement counts for `lifeMs`; of one thing at most `peersMax` peers are kept. */
  constructor(options: { lifeMs: number; peersMax: number; onChange?: (key: string) => void }) {
    this.#lifeMs = options.lifeMs;
    this.#peersMax = options.peersMax;
    this.#onChange = options.onChange;
  }

  /** True when this node was not known to have this. */
  announced({ key, ...peer }: Announcement, now: number): boolean {
    const nodes = this.#seen.get(key) ?? new Map<string, Seen>();
    const before = nodes.get(peer.nodeId);
    if (before === undefined && nodes.size >= this.#peersMax) return false;
    this.#seen.set(key, nodes);
    nodes.set(peer.nodeId, { peer, seenAt: now });
    if (before?.peer.url !== peer.url || before.peer.complete !== peer.complete) this.#list(key);
    return before === undefined;
  }

  gone(key: string, nodeId: string): void {
    if (this.#seen.get(key)?.delete(nodeId) === true) this.#list(key);
  }

  /** Forgets nodes that have been silent for too long. */
  sweep(now: number): void {
    for (const [key, nodes] of this.#seen) {
      for (const [nodeId, { seenAt }] of nodes) {
        if (now - seenAt > this.#lifeMs) this.gone(key, nodeId);
      }
    }
  }

  /** The same array as long as nothing changed. */
  peers(key: string): readonly Peer[] {
    return this.#lists.get(key) ?? NOBODY;
  }

  #list(key: string): void {
    const nodes = this.#seen.get(key);
    if (nodes === undefined || nodes.size === 0) {
      this.#seen.delete(key);
      this.#lists.delete(key);
    } else
      this.#lists.set(
        key,
        [...nodes.values()].map(({ peer }) => peer),
      );
    this.#onChange?.(key);
  }
}
