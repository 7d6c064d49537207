// Which node fetches which range when several nodes of a zone load the same weights. Every range has one owner among the
// nodes, by hashing, so all agree without talking: the owner reads it from the bucket, the others from the owner,
// and the bucket is read about once however many nodes start. Views of who takes part may differ for a moment; then a range
// is fetched twice, nothing else. Pure.
import { crc32 } from "node:zlib";
import type { Peer } from "@pilotlight/peers";
import type { Chunk } from "./chunks.ts";
import type { Segment } from "./ports.ts";

/** What a flight needs to know of the other nodes. */
export type Relay = {
  nodeId: string;
  /** Who takes part now. Changes during a flight; the same array as long as nothing changed. */
  peers(): readonly Peer[];
  /** Reads a range from a peer. Rejects when the peer has not got it in time; then the bucket is asked. */
  read(peer: Peer, range: PeerRange, signal: AbortSignal): Promise<void>;
};

export type PeerRange = {
  /** Index of the file in the repository's order. */
  file: number;
  offset: number;
  length: number;
  /** Receives the bytes. */
  into: Pick<Segment, "base" | "memory" | "filled"> & { descriptor: number };
  checksums: { blockBytes: number; blocks: string } | undefined;
};

/**
 * The owner of each range: by rendezvous hashing, so that nodes that come or go move few ranges, but no node has more than its
 * share, because a node's owner load is what its network card sends to all the others (consistent hashing with bounded loads,
 * Mirrokni et al. 2018, with no slack). Throws for no nodes.
 */
export function owners(nodeIds: readonly string[], chunks: readonly Chunk[]): Map<Chunk, string> {
  const nodes = nodeIds.toSorted().map((nodeId) => ({ nodeId, seed: crc32(nodeId), room: 0 }));
  const share = Math.ceil(chunks.length / nodes.length);
  for (const node of nodes) node.room = share;
  const found = new Map<Chunk, string>();
  for (const chunk of chunks) {
    const owner = heaviest(nodes, chunk);
    owner.room -= 1;
    found.set(chunk, owner.nodeId);
  }
  return found;
}

type Candidate = { nodeId: string; seed: number; room: number };

/** Among those that have room. Equal weights: the first by name. */
function heaviest(nodes: readonly Candidate[], { file, offset }: Chunk): Candidate {
  const place = mixed(file) ^ mixed(offset % 2 ** 32) ^ Math.floor(offset / 2 ** 32);
  let best: { node: Candidate; weight: number } | undefined;
  for (const node of nodes) {
    if (node.room === 0) continue;
    const weight = mixed(node.seed ^ place);
    if (best === undefined || weight > best.weight) best = { node, weight };
  }
  if (best === undefined) throw new RangeError("a range needs a node to belong to");
  return best.node;
}

/** Similar numbers, and CRCs of similar texts, differ in few bits (murmur3's finaliser spreads them). */
function mixed(value: number): number {
  let bits = value ^ (value >>> 16);
  bits = Math.imul(bits, 0x85ebca6b);
  bits ^= bits >>> 13;
  bits = Math.imul(bits, 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** Where to try a range, in order; after these the bucket. `turn` spreads what nobody owns over those that have everything. */
export function relayRoute(owner: string, peers: readonly Peer[], turn: number): Peer[] {
  const holders = peers.filter(({ complete }) => complete);
  const first = peers.find(({ nodeId }) => nodeId === owner);
  const holder = holders[turn % holders.length];
  return [...new Set([first, holder])].filter((peer) => peer !== undefined);
}

/**
 * A flight's ranges in file order, or in that of those who asked for one, given out so that a node's own come early: half of the
 * readers take those first, because others wait for them, half take what the others fetch.
 */
export class RelayQueue {
  readonly #self: string;
  readonly #chunks: readonly Chunk[];
  #left: Set<Chunk>;
  /** Wanted before all others, in this order. */
  readonly #preferred = new Set<Chunk>();
  #peers: readonly Peer[] = [];
  #owners = new Map<Chunk, string>();
  #own = new Set<Chunk>();
  #given = 0;

  constructor(self: string, chunks: Iterable<Chunk>) {
    this.#self = self;
    this.#chunks = [...chunks];
    this.#left = new Set(this.#chunks);
  }

  get chunks(): readonly Chunk[] {
    return this.#chunks;
  }

  /** These come next, after those that were preferred before them. */
  prefer(chunks: readonly Chunk[]): void {
    for (const chunk of chunks) this.#preferred.add(chunk);
    const order = [...this.#preferred, ...this.#chunks];
    this.#left = new Set(order.filter((chunk) => this.#left.has(chunk)));
    this.#own = new Set([...this.#left].filter((chunk) => this.#own.has(chunk)));
  }

  /** The next range for a reader, with where to try it first; undefined when all were given out. */
  next(reader: number, peers: readonly Peer[]): { chunk: Chunk; route: Peer[] } | undefined {
    if (peers !== this.#peers) this.#divide(peers);
    const preferOwn = reader % 2 === 0;
    const chunk = (preferOwn ? first(this.#own) : this.#firstForeign()) ?? first(this.#left);
    if (chunk === undefined) return undefined;
    this.#left.delete(chunk);
    this.#own.delete(chunk);
    const owner = this.#owners.get(chunk) ?? this.#self;
    return { chunk, route: relayRoute(owner, peers, this.#given++) };
  }

  /** All ranges count, those that are there too: who joins later must come to the same owners. */
  #divide(peers: readonly Peer[]): void {
    this.#peers = peers;
    this.#owners = owners([this.#self, ...peers.map(({ nodeId }) => nodeId)], this.#chunks);
    this.#own = new Set([...this.#left].filter((chunk) => this.#owners.get(chunk) === this.#self));
  }

  #firstForeign(): Chunk | undefined {
    if (this.#peers.length === 0) return undefined;
    for (const chunk of this.#left) if (!this.#own.has(chunk)) return chunk;
    return undefined;
  }
}

function first<T>(set: ReadonlySet<T>): T | undefined {
  for (const item of set) return item;
  return undefined;
}
