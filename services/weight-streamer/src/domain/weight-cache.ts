// The weights that a node holds. A repository is fetched once however many replicas ask for it, kept while somebody
// maps it, and afterwards until its room is needed (least recently used first).
//   C1. One flight per source at a time; whoever asks joins it.
//   C2. Held weights are served again only if the source still has the same objects; when the source cannot be asked,
//       they are (a bucket's outage stops no replica that the node can start by itself).
//   C3. A lease pins its weights: they are not removed before it is released. The last lease on an unfinished flight
//       cancels it when released.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";
import type { WeightsEvent } from "./events.ts";
import { Flight, type FlightLimits } from "./flight.ts";
import type { RangeReader, SegmentSet } from "./ports.ts";
import { fingerprint, listObjects, type Repository, readRepository } from "./repository.ts";

export type WeightCacheOptions = {
  openStore: (source: string) => ObjectStore;
  segments: SegmentMaker;
  limits: FlightLimits;
  readRange: RangeReader;
  /** How long a source may take to say whether held weights are still current. */
  revalidateMs: number;
  now: () => number;
};

/** Makes room and files for a repository. */
export type SegmentMaker = {
  /**
   * Segments for the repository's files. Where room is short, `evict` is called for the oldest unpinned weights of a
   * place until it returns false. Throws resourceExhausted when they fit nowhere.
   */
  create(
    repository: Repository,
    store: ObjectStore,
    evict: (place: "memory" | "disk") => boolean,
  ): Promise<SegmentSet>;
  /** Bytes held and allowed in shared memory. */
  usage(): { bytesUsed: number; bytesMax: number };
};

/** A replica's hold on weights. */
export type Lease = {
  /** From the beginning, once. Throws the load's failure. */
  events: AsyncIterable<WeightsEvent>;
  /** Gives the pin back. May be called more than once. */
  release(): void;
};

export type HeldWeights = { source: string; bytes: number; pins: number; complete: boolean };

type Entry = {
  source: string;
  fingerprint: string;
  store: ObjectStore;
  flight: Flight;
  pins: number;
  /** Grows with every use: the smallest is the least recently used. */
  usedAt: number;
};

export class WeightCache {
  readonly #options: WeightCacheOptions;
  readonly #entries = new Set<Entry>();
  /** Sources that are being looked at, so that simultaneous requests share the answer. */
  readonly #opening = new Map<string, Promise<{ entry: Entry; opener: symbol }>>();
  #uses = 0;
  #closed = false;

  constructor(options: WeightCacheOptions) {
    this.#options = options;
  }

  /** Starts or joins a load. The lease must be released, whatever happens. */
  load(source: string): Lease {
    const released = new AbortController();
    let entry: Entry | undefined;
    const release = (): void => {
      if (released.signal.aborted) return;
      released.abort(new PlatformError("cancelled", "the lease was released"));
      if (entry !== undefined) this.#unpin(entry);
    };
    const events = async function* (this: WeightCache): AsyncGenerator<WeightsEvent> {
      const own = Symbol(source);
      const opened = await this.#open(source, own);
      if (released.signal.aborted) {
        this.#unpin(opened.entry);
        throw toPlatformError(released.signal.reason);
      }
      entry = opened.entry;
      yield* entry.flight.events(opened.opener === own, released.signal);
    };
    return { events: events.call(this), release };
  }

  /** Fetches ahead of need and keeps nothing pinned. Resolves when the weights are there; rejects if they cannot be. */
  async prefetch(source: string): Promise<void> {
    const lease = this.load(source);
    try {
      for await (const event of lease.events) if (event.kind === "complete") return;
    } finally {
      lease.release();
    }
  }

  held(): HeldWeights[] {
    return [...this.#entries].map(({ source, flight, pins }) => {
      return { source, bytes: flight.repository.bytesTotal, pins, complete: flight.landed };
    });
  }

  usage(): { bytesUsed: number; bytesMax: number } {
    return this.#options.segments.usage();
  }

  /** Cancels every flight and removes every segment. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#opening.values());
    await Promise.all([...this.#entries].map((entry) => this.#remove(entry)));
  }

  /** The entry to use for a source, pinned once for the caller. */
  async #open(source: string, own: symbol): Promise<{ entry: Entry; opener: symbol }> {
    if (this.#closed) throw new PlatformError("unavailable", "the weight streamer is stopping");
    let pending = this.#opening.get(source);
    if (pending === undefined) {
      pending = this.#findOrStart(source, own).finally(() => this.#opening.delete(source));
      this.#opening.set(source, pending);
    }
    const { entry, opener } = await pending;
    entry.pins += 1;
    entry.usedAt = ++this.#uses;
    return { entry, opener };
  }

  async #findOrStart(source: string, own: symbol): Promise<{ entry: Entry; opener: symbol }> {
    const existing = [...this.#entries].findLast((entry) => entry.source === source && !entry.flight.failed);
    if (existing !== undefined && (!existing.flight.landed || (await this.#isCurrent(existing)))) {
      return { entry: existing, opener: Symbol("earlier") };
    }
    const store = this.#options.openStore(source);
    try {
      const signal = AbortSignal.timeout(this.#options.limits.chunkDeadlineMs);
      const objects = await listObjects(store, signal);
      const entry = await this.#start(source, store, objects, signal);
      if (existing !== undefined && existing.pins === 0) void this.#remove(existing);
      return { entry, opener: own };
    } catch (error) {
      await store.close();
      throw toPlatformError(error);
    }
  }

  async #start(
    source: string,
    store: ObjectStore,
    objects: Map<string, ObjectInfo>,
    signal: AbortSignal,
  ): Promise<Entry> {
    const { limits, readRange, now, segments: maker } = this.#options;
    const repository = await readRepository(store, objects, signal);
    const segments = await maker.create(repository, store, (place) => this.#evictOldest(place));
    const flight = new Flight({ repository, store, segments, limits, readRange, now });
    const entry: Entry = { source, fingerprint: fingerprint(objects), store, flight, pins: 0, usedAt: 0 };
    this.#entries.add(entry);
    void flight.done.then(() => {
      if (flight.failed) return this.#remove(entry);
      return store.close();
    });
    return entry;
  }

  async #isCurrent(entry: Entry): Promise<boolean> {
    const store = this.#options.openStore(entry.source);
    try {
      const objects = await listObjects(store, AbortSignal.timeout(this.#options.revalidateMs));
      return fingerprint(objects) === entry.fingerprint;
    } catch (thrown) {
      const { retryable, code } = toPlatformError(thrown);
      return retryable || code === "cancelled";
    } finally {
      await store.close();
    }
  }

  #unpin(entry: Entry): void {
    entry.pins -= 1;
    if (entry.pins === 0 && !entry.flight.landed) void this.#remove(entry);
  }

  #evictOldest(place: "memory" | "disk"): boolean {
    const candidates = [...this.#entries].filter(({ pins, flight }) => {
      return (
        pins === 0 && flight.landed && flight.segments.segments.some((segment) => segment.place === place)
      );
    });
    const oldest = candidates.sort((a, b) => a.usedAt - b.usedAt)[0];
    if (oldest === undefined) return false;
    this.#entries.delete(oldest);
    oldest.flight.segments.remove();
    return true;
  }

  async #remove(entry: Entry): Promise<void> {
    if (!this.#entries.delete(entry)) return;
    entry.flight.cancel();
    await entry.flight.done;
    entry.flight.segments.remove();
    await entry.store.close();
  }
}
