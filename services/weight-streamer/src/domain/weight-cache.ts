// The weights that a node holds. A repository is fetched once however many replicas ask for it, kept while somebody
// maps it, and afterwards until its room is needed (least recently used first).
//   C1. One flight per source at a time; whoever asks joins it.
//   C2. Held weights are served again only if the source still has the same objects; when the source cannot be asked,
//       they are (a bucket's outage stops no replica that the node can start by itself).
//   C4. Weights that nobody uses are copied to disk while there is room, so that giving up their memory costs a slower start,
//       not a second fetch. A copy holds what was checked before.
//   C5. Weights that are converted on the way are weights of their own: fetched, held and given up beside the plain ones, and never
//       offered to other nodes, which know files by what the source has.
//   C6. What a digest is known of is read again in the background. Weights that turn out wrong are given to nobody any more.
//   C3. A lease pins its weights: they are not removed before it is released. The last lease on an unfinished flight
//       cancels it when released.
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";
import {
  ConvertedLayout,
  Flight,
  type FlightLimits,
  type FlightStats,
  fingerprint,
  knownSha256,
  listObjects,
  type PlaceUsage,
  type RangeReader,
  type Relay,
  type Repository,
  readRepository,
  type Segment,
  type SegmentMaker,
  type SegmentSet,
  segmentSha256,
  type TargetDtype,
  type WeightsEvent,
} from "@pilotlight/weights";

export type WeightCacheOptions = {
  openStore: (source: string) => ObjectStore;
  segments: SegmentMaker;
  limits: FlightLimits;
  readRange: RangeReader;
  /** Other nodes that have the weights of this fingerprint; absent: only the source is asked. */
  relayOf?: (fingerprint: string) => Relay;
  /** Told when weights of this fingerprint begin to come, are complete, and are gone. */
  onHeld?: (fingerprint: string, held: "loading" | "complete" | "gone") => void;
  /** Of complete weights, after they were handed out; absent: blocks' checksums are all. */
  digests?: DigestOptions | undefined;
  /** Told when nothing of a load runs any more. */
  onFlightEnded?: (stats: FlightStats) => void;
  /** How long a source may take to say whether held weights are still current. */
  revalidateMs: number;
  now: () => number;
};

export type DigestOptions = {
  /** So long after a load, ms: until then its engine has the processors. */
  afterMs: number;
  bytesPerSecond: number;
  /** Told of each file whose digest is known. */
  onChecked: (source: string, key: string, right: boolean) => void;
};

/** How weights are wanted. */
export type LoadWish = {
  /** Fetched first: names, or beginnings of names that end in a dot. */
  order?: readonly string[];
  /** Floats are converted to it on the way. */
  dtype?: TargetDtype | undefined;
};

/** A replica's hold on weights. */
export type Lease = {
  /** From the beginning, once. Throws the load's failure. */
  events: AsyncIterable<WeightsEvent>;
  /** Gives the pin back. May be called more than once. */
  release(): void;
};

export type HeldWeights = {
  source: string;
  dtype: TargetDtype | undefined;
  bytes: number;
  pins: number;
  complete: boolean;
};

/** A range that another node may read: the file it lies in, where the weights begin there, and how long they are. */
export type SharedRange = { path: string; base: number; bytes: number };

/** What is looked for: a source, in its own dtypes or converted. */
type Wanted = { source: string; dtype: TargetDtype | undefined };

type Order = readonly string[] | undefined;

type FlightBegin = { repository: Repository; store: ObjectStore; order: Order };

type Entry = Wanted & {
  fingerprint: string;
  store: ObjectStore;
  flight: Flight;
  /** The same bytes on disk: being made, or made. */
  copy:
    | { stop: AbortController; done: Promise<SegmentSet | undefined>; set: SegmentSet | undefined }
    | undefined;
  pins: number;
  /** Its digest was wrong (C6). */
  isWrong: boolean;
  /** Grows with every use: the smallest is the least recently used. */
  usedAt: number;
};

export class WeightCache {
  readonly #options: WeightCacheOptions;
  readonly #entries = new Set<Entry>();
  /** Sources that are being looked at, so that simultaneous requests share the answer. */
  readonly #opening = new Map<string, Promise<{ entry: Entry; opener: symbol }>>();
  readonly #stopDigests = new AbortController();
  #digesting: Promise<unknown> = Promise.resolve();
  #uses = 0;
  #closed = false;

  constructor(options: WeightCacheOptions) {
    this.#options = options;
  }

  /** Starts or joins a load. The lease must be released, whatever happens. */
  load(source: string, { order, dtype }: LoadWish = {}): Lease {
    const released = new AbortController();
    let entry: Entry | undefined;
    const release = (): void => {
      if (released.signal.aborted) return;
      released.abort(new PlatformError("cancelled", "the lease was released"));
      if (entry !== undefined) this.#unpin(entry);
    };
    const events = async function* (this: WeightCache): AsyncGenerator<WeightsEvent> {
      const own = Symbol(source);
      const opened = await this.#open({ source, dtype }, order, own);
      if (released.signal.aborted) {
        this.#unpin(opened.entry);
        throw toPlatformError(released.signal.reason);
      }
      entry = opened.entry;
      if (order !== undefined) entry.flight.prefer(order);
      yield* entry.flight.events(opened.opener === own, released.signal);
    };
    return { events: events.call(this), release };
  }

  /** Fetches ahead of need and keeps nothing pinned. Resolves when the weights are there; rejects if they cannot be. */
  async prefetch(source: string, onEvent: (event: WeightsEvent) => void = () => {}): Promise<void> {
    const lease = this.load(source);
    try {
      for await (const event of lease.events) {
        onEvent(event);
        if (event.kind === "complete") return;
      }
    } finally {
      lease.release();
    }
  }

  held(): HeldWeights[] {
    return [...this.#entries].map(({ source, dtype, flight, pins }) => {
      const bytes = dtype === undefined ? flight.repository.bytesTotal : flight.segments.bytes;
      return { source, dtype, bytes, pins, complete: flight.landed };
    });
  }

  /**
   * Where a range of these weights lies, once it is there; undefined when the node has not got it within the signal's time. For
   * other nodes: what is read there is what was checked here.
   */
  async share(
    fingerprint: string,
    file: number,
    range: { offset: number; length: number },
    signal: AbortSignal,
  ): Promise<SharedRange | undefined> {
    const entry = [...this.#entries].find(
      (entry) => entry.fingerprint === fingerprint && entry.dtype === undefined && isUsable(entry),
    );
    const weights = entry?.flight.repository.weights[file];
    if (entry === undefined || weights === undefined) return undefined;
    if (range.offset + range.length > weights.bytes) return undefined;
    if (!(await entry.flight.has(file, range.offset, range.length, signal))) return undefined;
    const segment = entry.flight.segments.segments[file];
    return segment === undefined
      ? undefined
      : { path: segment.path, base: segment.base, bytes: weights.bytes };
  }

  usage(): { bytesUsed: number; bytesMax: number } {
    return this.#options.segments.usage();
  }

  places(): PlaceUsage[] {
    return this.#options.segments.places();
  }

  activity(): { leases: number; held: number; loading: number; ranges: number; rangesAllowed: number } {
    const entries = [...this.#entries];
    const sum = (of: (entry: Entry) => number): number =>
      entries.reduce((total, entry) => total + of(entry), 0);
    return {
      leases: sum(({ pins }) => pins),
      held: sum(({ flight }) => Number(flight.landed)),
      loading: sum(({ flight }) => Number(!flight.landed)),
      ranges: sum(({ flight }) => flight.ranges.inFlight),
      rangesAllowed: sum(({ flight }) => flight.ranges.allowed),
    };
  }

  /** Cancels every flight and removes every segment. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#stopDigests.abort();
    await this.#digesting;
    await Promise.allSettled(this.#opening.values());
    await Promise.all([...this.#entries].map((entry) => this.#remove(entry)));
  }

  /** The entry to use for a source, pinned once for the caller. */
  async #open(wanted: Wanted, order: Order, own: symbol): Promise<{ entry: Entry; opener: symbol }> {
    const name = `${wanted.dtype ?? ""} ${wanted.source}`;
    while (true) {
      if (this.#closed) throw new PlatformError("unavailable", "the weight streamer is stopping");
      let pending = this.#opening.get(name);
      if (pending === undefined) {
        pending = this.#findOrStart(wanted, order, own).finally(() => this.#opening.delete(name));
        this.#opening.set(name, pending);
      }
      const { entry, opener } = await pending;
      // Given up between being found and being taken, because somebody needed its room: looked for again.
      if (!this.#entries.has(entry) && !entry.flight.failed) continue;
      entry.pins += 1;
      entry.usedAt = ++this.#uses;
      return { entry, opener };
    }
  }

  async #findOrStart(wanted: Wanted, order: Order, own: symbol): Promise<{ entry: Entry; opener: symbol }> {
    const { source, dtype } = wanted;
    const existing = [...this.#entries].findLast(
      (entry) => entry.source === source && entry.dtype === dtype && isUsable(entry),
    );
    if (existing !== undefined && (!existing.flight.landed || (await this.#isCurrent(existing)))) {
      return { entry: existing, opener: Symbol("earlier") };
    }
    const store = this.#options.openStore(source);
    try {
      const signal = AbortSignal.timeout(this.#options.limits.chunkDeadlineMs);
      const objects = await listObjects(store, signal);
      const entry = await this.#start(wanted, order, store, objects, signal);
      if (existing !== undefined && existing.pins === 0) void this.#remove(existing);
      return { entry, opener: own };
    } catch (error) {
      await store.close();
      throw toPlatformError(error);
    }
  }

  async #start(
    wanted: Wanted,
    order: Order,
    store: ObjectStore,
    objects: Map<string, ObjectInfo>,
    signal: AbortSignal,
  ): Promise<Entry> {
    const print = fingerprint(objects);
    const tell = wanted.dtype === undefined ? this.#options.onHeld : undefined;
    // Said before anything is read: the other nodes' answers come while the headers do.
    tell?.(print, "loading");
    try {
      const begin = { repository: await readRepository(store, objects, signal), store, order };
      const flight =
        wanted.dtype === undefined
          ? await this.#fly(begin, this.#options.relayOf?.(print))
          : await this.#flyConverting(begin, wanted.dtype);
      const entry: Entry = {
        ...wanted,
        fingerprint: print,
        store,
        flight,
        copy: undefined,
        pins: 0,
        isWrong: false,
        usedAt: 0,
      };
      this.#entries.add(entry);
      void flight.done.then(() => {
        this.#options.onFlightEnded?.(flight.stats);
        if (flight.failed) return this.#remove(entry);
        tell?.(print, "complete");
        this.#checkDigests(entry);
        return store.close();
      });
      return entry;
    } catch (error) {
      if (tell !== undefined) this.#tellGone(print);
      throw error;
    }
  }

  async #fly(begin: FlightBegin, relay: Relay | undefined): Promise<Flight> {
    const { limits, readRange, now, segments: maker } = this.#options;
    const { repository, store } = begin;
    const segments = await maker.create(repository, store, (place) => this.#evictOldest(place));
    return new Flight({ ...begin, segments, limits, readRange, relay, now });
  }

  /** No other node is asked: what they have is not what is kept here (C5). */
  async #flyConverting(begin: FlightBegin, dtype: TargetDtype): Promise<Flight> {
    const { limits, now, segments: maker } = this.#options;
    const layout = new ConvertedLayout(begin.repository, dtype);
    const sized = layout.sized(begin.repository);
    const segments = layout.segments(
      await maker.create(sized, undefined, (place) => this.#evictOldest(place)),
    );
    const readRange = layout.reader(this.#options.readRange, segments);
    const stored = layout.stored.bind(layout);
    return new Flight({ ...begin, segments, limits, readRange, stored, now });
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
    if (entry.pins > 0) return;
    if (entry.flight.landed && !entry.isWrong) this.#copyToDisk(entry);
    else void this.#remove(entry);
  }

  /** One file after the other, of one repository after the other (C6). */
  #checkDigests(entry: Entry): void {
    const { digests } = this.#options;
    if (digests === undefined || entry.dtype !== undefined) return;
    const stop = this.#stopDigests.signal;
    const due = sleep(digests.afterMs, undefined, { signal: stop, ref: false });
    this.#digesting = Promise.all([due, this.#digesting])
      .then(() => this.#checkNow(entry, digests, stop))
      // Stopped, or given up meanwhile: nothing is held that could be wrong.
      .catch(() => undefined);
  }

  async #checkNow(
    entry: Entry,
    { bytesPerSecond, onChecked }: DigestOptions,
    signal: AbortSignal,
  ): Promise<void> {
    const { source, flight } = entry;
    for (const [i, file] of flight.repository.weights.entries()) {
      const expected = knownSha256(source, file);
      if (expected === undefined || !this.#entries.has(entry)) continue;
      const segment = flight.segments.segments[i] as Segment;
      const right = (await segmentSha256(segment, { bytesPerSecond, signal })) === expected;
      onChecked(source, file.key, right);
      if (right) continue;
      entry.isWrong = true;
      if (entry.pins === 0) void this.#remove(entry);
      return;
    }
  }

  /** In the background; whoever needs the memory meanwhile does not wait for it (C4). */
  #copyToDisk(entry: Entry): void {
    if (entry.copy !== undefined || !this.#entries.has(entry)) return;
    const stop = new AbortController();
    const done = this.#options.segments
      .copyToDisk(entry.flight.segments, () => this.#evictOldest("disk"), stop.signal)
      // Without a copy the weights are fetched again when they are wanted again: nothing is lost.
      .catch(() => undefined);
    const copy: NonNullable<Entry["copy"]> = { stop, done, set: undefined };
    entry.copy = copy;
    void done.then((set) => {
      if (set === undefined || entry.copy !== copy) set?.remove();
      else copy.set = set;
    });
  }

  /** Gives up the memory or the disk of what was longest not used. False: nothing more can be given up. */
  #evictOldest(place: "memory" | "disk"): boolean {
    const oldest = [...this.#entries]
      .filter(({ pins, flight, copy }) => {
        if (pins > 0 || !flight.landed) return false;
        return isIn(flight.segments, place) || (place === "disk" && copy?.set !== undefined);
      })
      .sort((a, b) => a.usedAt - b.usedAt)[0];
    if (oldest === undefined) return false;
    const { flight, copy } = oldest;
    if (place === "memory" && copy?.set !== undefined) {
      flight.moveTo(copy.set);
      oldest.copy = undefined;
    } else if (place === "disk" && !isIn(flight.segments, "disk")) {
      copy?.set?.remove();
      oldest.copy = undefined;
    } else void this.#remove(oldest);
    return true;
  }

  async #remove(entry: Entry): Promise<void> {
    if (!this.#entries.delete(entry)) return;
    const { flight, copy, store } = entry;
    flight.cancel();
    copy?.stop.abort();
    entry.copy = undefined;
    copy?.set?.remove();
    // What has landed gives its room back at once: somebody may be waiting for it.
    if (flight.landed) flight.segments.remove();
    if (entry.dtype === undefined) this.#tellGone(entry.fingerprint);
    await Promise.all([flight.done, copy?.done]);
    flight.segments.remove();
    await store.close();
  }

  #tellGone(fingerprint: string): void {
    if ([...this.#entries].some((entry) => entry.fingerprint === fingerprint && entry.dtype === undefined))
      return;
    this.#options.onHeld?.(fingerprint, "gone");
  }
}

const isUsable = ({ flight, isWrong }: Entry): boolean => !flight.failed && !isWrong;

const isIn = (set: SegmentSet, place: "memory" | "disk"): boolean =>
  set.segments.some((segment) => segment.place === place);
