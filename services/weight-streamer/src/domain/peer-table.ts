// Which other nodes have which weights, from what they say of themselves. Lists change only when something does, so that a
// flight sees at a glance that nothing is new. No clock inside: callers bring it.
import type { Peer } from "@pilotlight/weights";

export type Announcement = Peer & { fingerprint: string };

type Seen = { peer: Peer; seenAt: number };

const NOBODY: readonly Peer[] = [];

export class PeerTable {
  readonly #seen = new Map<string, Map<string, Seen>>();
  readonly #lists = new Map<string, readonly Peer[]>();
  readonly #lifeMs: number;
  readonly #peersMax: number;

  /** An announcement counts for `lifeMs`; of one set of weights at most `peersMax` peers are kept. */
  constructor(options: { lifeMs: number; peersMax: number }) {
    this.#lifeMs = options.lifeMs;
    this.#peersMax = options.peersMax;
  }

  /** True when this node was not known to have these weights. */
  announced({ fingerprint, ...peer }: Announcement, now: number): boolean {
    const nodes = this.#seen.get(fingerprint) ?? new Map<string, Seen>();
    const before = nodes.get(peer.nodeId);
    if (before === undefined && nodes.size >= this.#peersMax) return false;
    this.#seen.set(fingerprint, nodes);
    nodes.set(peer.nodeId, { peer, seenAt: now });
    if (before?.peer.url !== peer.url || before.peer.complete !== peer.complete) this.#list(fingerprint);
    return before === undefined;
  }

  gone(fingerprint: string, nodeId: string): void {
    if (this.#seen.get(fingerprint)?.delete(nodeId) === true) this.#list(fingerprint);
  }

  /** Forgets nodes that have been silent for too long. */
  sweep(now: number): void {
    for (const [fingerprint, nodes] of this.#seen) {
      for (const [nodeId, { seenAt }] of nodes) {
        if (now - seenAt > this.#lifeMs) this.gone(fingerprint, nodeId);
      }
    }
  }

  /** The same array as long as nothing changed. */
  peers(fingerprint: string): readonly Peer[] {
    return this.#lists.get(fingerprint) ?? NOBODY;
  }

  #list(fingerprint: string): void {
    const nodes = this.#seen.get(fingerprint);
    if (nodes === undefined || nodes.size === 0) {
      this.#seen.delete(fingerprint);
      this.#lists.delete(fingerprint);
    } else
      this.#lists.set(
        fingerprint,
        [...nodes.values()].map(({ peer }) => peer),
      );
  }
}
