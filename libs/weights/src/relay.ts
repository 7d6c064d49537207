// Which node fetches which range when several nodes of a zone load the same weights. Every range has one owner among the
// nodes, by rendezvous hashing, so all agree without talking: the owner reads it from the bucket, the others from the owner,
// and the bucket is read about once however many nodes start. Views of who takes part may differ for a moment; then a range
// is fetched twice, nothing else. Pure.
import { crc32 } from "node:zlib";
import type { Chunk } from "./chunks.ts";
import type { Segment } from "./ports.ts";

/** Another node that has the same weights (the same objects under the same ETags), or loads them now. */
export type Peer = {
  nodeId: string;
  /** Where its ranges are served: http://HOST:PORT. */
  url: string;
  /** It has everything. */
  complete: boolean;
};

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

/** The node among `nodeIds` that a range belongs to. Throws for none. */
export function rendezvous(
  nodeIds: readonly string[],
  { file, offset }: Pick<Chunk, "file" | "offset">,
): string {
  let best: { nodeId: string; weight: number } | undefined;
  for (const nodeId of nodeIds) {
    const weight = mixed(crc32(`${nodeId}\0${file}\0${offset}`));
    if (best === undefined || weight > best.weight || (weight === best.weight && nodeId > best.nodeId)) {
      best = { nodeId, weight };
    }
  }
  if (best === undefined) throw new RangeError("a range needs a node to belong to");
  return best.nodeId;
}

/** CRCs of similar texts differ in few bits (murmur3's finaliser spreads them). */
function mixed(value: number): number {
  let bits = value ^ (value >>> 16);
  bits = Math.imul(bits, 0x85ebca6b);
  bits ^= bits >>> 13;
  bits = Math.imul(bits, 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** Where to try a range, in order; after these the bucket. */
export function relayRoute(self: string, peers: readonly Peer[], chunk: Chunk): Peer[] {
  if (peers.length === 0) return [];
  const owner = rendezvous([self, ...peers.map(({ nodeId }) => nodeId)], chunk);
  const holders = peers.filter(({ complete }) => complete);
  const first = peers.find(({ nodeId }) => nodeId === owner);
  if (holders.length === 0) return first === undefined ? [] : [first];
  const holderId = rendezvous(
    holders.map(({ nodeId }) => nodeId),
    chunk,
  );
  const holder = holders.find(({ nodeId }) => nodeId === holderId) as Peer;
  return first === undefined || first === holder ? [holder] : [first, holder];
}

/**
 * A flight's ranges in file order, given out so that a node's own come early: half of the readers take those first, because
 * others wait for them, half take what the others fetch.
 */
export class RelayQueue {
  readonly #self: string;
  readonly #left: Set<Chunk>;
  #peers: readonly Peer[] = [];
  #own = new Set<Chunk>();

  constructor(self: string, chunks: Iterable<Chunk>) {
    this.#self = self;
    this.#left = new Set(chunks);
  }

  /** The next range for a reader, with where to try it first; undefined when all were given out. */
  next(reader: number, peers: readonly Peer[]): { chunk: Chunk; route: Peer[] } | undefined {
    if (peers !== this.#peers) this.#divide(peers);
    const preferOwn = reader % 2 === 0;
    const chunk = (preferOwn ? first(this.#own) : this.#firstForeign()) ?? first(this.#left);
    if (chunk === undefined) return undefined;
    this.#left.delete(chunk);
    this.#own.delete(chunk);
    return { chunk, route: relayRoute(this.#self, peers, chunk) };
  }

  #divide(peers: readonly Peer[]): void {
    this.#peers = peers;
    const nodeIds = [this.#self, ...peers.map(({ nodeId }) => nodeId)];
    this.#own = new Set([...this.#left].filter((chunk) => rendezvous(nodeIds, chunk) === this.#self));
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
