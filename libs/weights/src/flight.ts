// One load of one repository: many ranges in flight into segments, tensors announced as they are complete. Any number
// of readers follow the same flight from its beginning; what they read is kept once.
//   W1. A tensor is announced only after every block it touches was fetched under the pinned ETag and matched its
//       checksum where one is known (I6).
//   W2. A flight that fails or is cancelled removes its segments.
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import type { Peer } from "@pilotlight/peers";
import type { TensorEntry } from "@pilotlight/safetensors";
import { Bell } from "./bell.ts";
import { type Chunk, chunkBytesFor, cutIntoChunks, TensorTracker } from "./chunks.ts";
import { Deadline } from "./deadline.ts";
import type { TensorReady, WeightsEvent } from "./events.ts";
import { type Contender, type HedgeLimits, HedgePolicy, hedged } from "./hedge.ts";
import { chunksOf, isOrderOf, orderedTensors } from "./order.ts";
import type { RangeReader, Scratch, Segment, SegmentSet } from "./ports.ts";
import { type Relay, RelayQueue } from "./relay.ts";
import { metadataOf, type Repository, tensorsOf, type WeightFile } from "./repository.ts";
import { arrived, refused, startWindow, type Window } from "./window.ts";

export type FlightLimits = HedgeLimits & {
  /** Bytes of one request, of a large repository up to four times as many; a multiple of the checksums' block. */
  chunkBytes: number;
  /** Requests at once, to begin with and at most. */
  requestsInitial: number;
  requestsMax: number;
  /** So many bytes must arrive within this, larger ranges in proportion; else they are asked for again. */
  chunkDeadlineMs: number;
  /** Attempts for one range, the first included. */
  chunkAttemptsMax: number;
  /** Before the second attempt; before the third twice as long, and so on. */
  retryDelayMs: number;
  /** Between two reports of a load's progress. */
  progressIntervalMs: number;
};

/** What the far side says when it wants fewer requests. Ranges that are late want the same: each would get more of the link. */
const REFUSALS: readonly string[] = ["unavailable", "resourceExhausted"];

export type FlightParts = {
  repository: Repository;
  store: ObjectStore;
  segments: SegmentSet;
  limits: FlightLimits;
  readRange: RangeReader;
  /** Other nodes with the same weights; absent: the source alone is asked. */
  relay?: Relay | undefined;
  /** Fetched first, as `prefer` has it; what nothing answers to is left to whoever asked. */
  order?: readonly string[] | undefined;
  /** What of a tensor is in the segments, where that is not the file's own bytes; absent: just these. */
  stored?: ((tensor: TensorEntry) => TensorEntry) | undefined;
  /** Milliseconds that only go forward. */
  now: () => number;
};

/** What a load took so far. */
export type FlightStats = {
  /** Ranges asked for, of the source and of peers, repeated ones too. */
  requests: number;
  retries: number;
  /** Of the requests: second ones for slow ranges. */
  hedges: number;
  bytesFromPeers: number;
};

type State = { kind: "flying" } | { kind: "landed" } | { kind: "failed"; error: PlatformError };

export class Flight {
  readonly repository: Repository;
  #segments: SegmentSet;
  readonly #parts: FlightParts;
  readonly #stop = new AbortController();
  readonly #tensors: { file: number; tensor: TensorEntry }[] = [];
  readonly #bell = new Bell();
  readonly #startedAt: number;
  readonly #chunkBytes: number;
  readonly #chunkDeadlineMs: number;
  /** Settles when the flight has landed or failed and nothing of it runs any more. Never rejects. */
  readonly done: Promise<void>;
  #state: State = { kind: "flying" };
  readonly #hedging: HedgePolicy;
  readonly #arrived: Set<number>[];
  readonly #queue: RelayQueue;
  #window: Window;
  #bytesDone = 0;
  #bytesFromPeers = 0;
  #requests = 0;
  #ranges = 0;
  #retries = 0;
  #durationMs = 0;

  constructor(parts: FlightParts) {
    this.#parts = parts;
    this.repository = parts.repository;
    this.#segments = parts.segments;
    this.#startedAt = parts.now();
    this.#arrived = parts.repository.weights.map(() => new Set());
    this.#hedging = new HedgePolicy(parts.limits);
    const { requestsInitial, requestsMax, chunkBytes, chunkDeadlineMs } = parts.limits;
    this.#chunkBytes = chunkBytesFor(parts.repository.bytesTotal, chunkBytes);
    this.#chunkDeadlineMs = chunkDeadlineMs * (this.#chunkBytes / chunkBytes);
    const fileBytes = parts.repository.weights.map(({ bytes }) => bytes);
    this.#queue = new RelayQueue(parts.relay?.nodeId ?? "", cutIntoChunks(fileBytes, this.#chunkBytes));
    this.#window = startWindow({ initial: requestsInitial, max: requestsMax });
    if (parts.order !== undefined && isOrderOf(tensorsOf(parts.repository), parts.order))
      this.prefer(parts.order);
    this.done = this.#fly();
  }

  get segments(): SegmentSet {
    return this.#segments;
  }

  /** Goes on with the same bytes in other segments and removes the old ones. Only for a flight that has landed. */
  moveTo(segments: SegmentSet): void {
    const old = this.#segments;
    this.#segments = segments;
    old.remove();
  }

  get landed(): boolean {
    return this.#state.kind === "landed";
  }

  get failed(): boolean {
    return this.#state.kind === "failed";
  }

  get bytesDone(): number {
    return this.#bytesDone;
  }

  get stats(): FlightStats {
    return {
      requests: this.#requests,
      retries: this.#retries,
      hedges: this.#hedging.hedges,
      bytesFromPeers: this.#bytesFromPeers,
    };
  }

  /** Ranges on their way, and how many may be. */
  get ranges(): { inFlight: number; allowed: number } {
    return { inFlight: this.#ranges, allowed: this.#state.kind === "flying" ? this.#window.size : 0 };
  }

  /** Bytes that came over the wire; what lies on the source's own disk is not fetched. */
  get bytesFetched(): number {
    const { segments } = this.segments;
    return this.repository.weights.reduce((sum, { bytes }, i) => {
      return segments[i]?.place === "source" ? sum : sum + bytes;
    }, 0);
  }

  /**
   * Resolves to true once this range of a file is there and checked, to false when it will not be within the time that the
   * signal allows.
   */
  async has(file: number, offset: number, length: number, signal: AbortSignal): Promise<boolean> {
    const wake = (): void => this.#bell.ring();
    signal.addEventListener("abort", wake, { once: true });
    try {
      while (true) {
        const change = this.#bell.next();
        if (this.failed) return false;
        if (this.landed || this.#hasArrived(file, offset, length)) return true;
        if (signal.aborted) return false;
        await change;
      }
    } finally {
      signal.removeEventListener("abort", wake);
    }
  }

  #hasArrived(file: number, offset: number, length: number): boolean {
    const chunkBytes = this.#chunkBytes;
    const there = this.#arrived[file];
    for (let at = offset - (offset % chunkBytes); at < offset + length; at += chunkBytes) {
      if (there?.has(at) !== true) return false;
    }
    return true;
  }

  /**
   * Fetches these tensors next (see `orderedTensors`), after what was preferred before. Throws invalidArgument for a name that the
   * repository has not got.
   */
  prefer(order: readonly string[]): void {
    const wanted = orderedTensors(tensorsOf(this.repository), order);
    this.#queue.prefer(chunksOf(wanted, this.#queue.chunks, this.#chunkBytes));
  }

  cancel(): void {
    this.#stop.abort(new PlatformError("cancelled", "nobody waits for these weights any more"));
  }

  /**
   * Everything that happens, from the beginning, at the reader's own pace. `own` is true for the reader whose request
   * started the flight. Throws the flight's failure.
   */
  async *events(own: boolean, signal: AbortSignal): AsyncGenerator<WeightsEvent> {
    const { bytesTotal, files } = this.repository;
    const startedAt = this.#parts.now();
    const tensors = tensorsOf(this.repository).map(({ tensor }) => tensor);
    const metadata = metadataOf(this.repository);
    yield { kind: "opened", files, bytesTotal, tensors, metadata, cached: this.landed };
    const wake = (): void => this.#bell.ring();
    signal.addEventListener("abort", wake, { once: true });
    try {
      yield* this.#changes(startedAt, signal);
    } finally {
      signal.removeEventListener("abort", wake);
    }
    yield {
      kind: "complete",
      bytesFetched: own ? this.bytesFetched : 0,
      durationMs: own ? this.#durationMs : Math.round(this.#parts.now() - startedAt),
    };
  }

  /** Tensors and progress until the flight has landed. */
  async *#changes(startedAt: number, signal: AbortSignal): AsyncGenerator<WeightsEvent> {
    const { bytesTotal } = this.repository;
    let told = 0;
    let reported = { at: startedAt, bytes: this.#bytesDone };
    while (true) {
      throwIfAborted(signal);
      const change = this.#bell.next();
      while (told < this.#tensors.length) {
        yield this.#tensorReady(told++);
        throwIfAborted(signal);
      }
      if (this.#state.kind === "failed") throw this.#state.error;
      if (this.#state.kind === "landed") break;
      const now = this.#parts.now();
      if (now - reported.at >= this.#parts.limits.progressIntervalMs) {
        const bytesPerSecond = Math.round(((this.#bytesDone - reported.bytes) / (now - reported.at)) * 1000);
        yield { kind: "progress", bytesDone: this.#bytesDone, bytesTotal, bytesPerSecond };
        reported = { at: now, bytes: this.#bytesDone };
      }
      await change;
    }
  }

  async #fly(): Promise<void> {
    // Readers tell of progress even while no tensor becomes complete.
    const beat = setInterval(() => this.#bell.ring(), this.#parts.limits.progressIntervalMs);
    try {
      await this.#fetchAll();
      for (const segment of this.segments.segments) segment.seal();
      this.#durationMs = Math.round(this.#parts.now() - this.#startedAt);
      this.#state = { kind: "landed" };
    } catch (thrown) {
      this.segments.remove();
      this.#state = { kind: "failed", error: toPlatformError(thrown) };
    }
    clearInterval(beat);
    this.#bell.ring();
  }

  async #fetchAll(): Promise<void> {
    const { weights } = this.repository;
    const { relay } = this.#parts;
    const trackers = weights.map(({ header }) => new TensorTracker(header.tensors));
    const readers = new Set<Promise<void>>();
    const read = async (reader: number): Promise<void> => {
      // Readers beyond the window end after their range; when it has grown, new ones are started.
      while (reader < this.#window.size && !this.#stop.signal.aborted) {
        const next = this.#queue.next(reader, relay?.peers() ?? NO_PEERS);
        if (next === undefined) return;
        await this.#fetch(next.chunk, next.route);
        this.#announce(next.chunk, trackers[next.chunk.file] as TensorTracker);
        startMissing();
      }
    };
    const running = new Set<number>();
    const startMissing = (): void => {
      for (let reader = 0; reader < this.#window.size; reader++) {
        if (running.has(reader)) continue;
        running.add(reader);
        const ended = read(reader)
          .catch((error: unknown) => this.#stop.abort(error))
          .finally(() => {
            running.delete(reader);
            readers.delete(ended);
          });
        readers.add(ended);
      }
    };
    startMissing();
    // The first failure stops the others and is the one that is told; all have ended before segments are removed.
    while (readers.size > 0) await Promise.all(readers);
    this.#stop.signal.throwIfAborted();
  }

  /** From the first of the route's peers that has it, else from the source. */
  async #fetch(chunk: Chunk, route: readonly Peer[]): Promise<void> {
    this.#ranges += 1;
    try {
      for (const peer of route) if (await this.#fetchFromPeer(chunk, peer)) return;
      await this.#fetchFromSource(chunk);
    } finally {
      this.#ranges -= 1;
    }
  }

  async #fetchFromPeer({ file, offset, length }: Chunk, peer: Peer): Promise<boolean> {
    const segment = this.segments.segments[file] as Segment;
    const { relay } = this.#parts;
    const { descriptor, base, memory, filled } = segment;
    if (relay === undefined || descriptor === undefined) return false;
    const into = { descriptor, base, memory, filled };
    const deadline = new Deadline(this.#stop.signal, this.#chunkDeadlineMs);
    const checksums = this.repository.weights[file]?.digest?.crc32;
    this.#requests += 1;
    try {
      await relay.read(peer, { file, offset, length, into, checksums }, deadline.signal);
      this.#bytesFromPeers += length;
      return true;
    } catch {
      // A peer that went away, is slow or has wrong bytes is no reason to fail: the next one is asked, then the source.
      this.#stop.signal.throwIfAborted();
      return false;
    } finally {
      deadline.end();
    }
  }

  async #fetchFromSource(chunk: Chunk): Promise<void> {
    const { key, digest } = this.repository.weights[chunk.file] as WeightFile;
    const segment = this.segments.segments[chunk.file] as Segment;
    // Without a checksum there is nothing to read in a file that is mapped where it lies.
    if (segment.place === "source" && digest === undefined) return this.#stop.signal.throwIfAborted();
    const { limits, now } = this.#parts;
    for (let attempt = 1; ; attempt++) {
      const deadline = new Deadline(this.#stop.signal, this.#chunkDeadlineMs);
      const startedAt = now();
      try {
        await this.#readHedged(chunk, segment, deadline.signal);
        this.#hedging.finished(now() - startedAt);
        this.#window = arrived(this.#window, chunk.length, now());
        return;
      } catch (thrown) {
        if (this.#stop.signal.aborted) throw this.#stop.signal.reason;
        const error = deadline.expired ? tooSlow(key, this.#chunkDeadlineMs) : toPlatformError(thrown);
        if (deadline.expired || REFUSALS.includes(error.code)) this.#window = refused(this.#window, now());
        // A flipped bit may have happened on the way: wrong bytes are asked for again like lost ones.
        if (attempt >= limits.chunkAttemptsMax || !(error.retryable || error.code === "corrupt")) throw error;
        this.#retries += 1;
        await sleep(limits.retryDelayMs * attempt, undefined, { signal: this.#stop.signal });
      } finally {
        deadline.end();
      }
    }
  }

  /** A slow range is asked for twice; the second reading is copied into the segment once the first has ended. */
  async #readHedged(chunk: Chunk, segment: Segment, signal: AbortSignal): Promise<void> {
    const { offset, length } = chunk;
    let scratch: Scratch | undefined;
    const into = (place: Segment): Contender => ({
      run: (signal) => {
        this.#requests += 1;
        return this.#read(chunk, place, signal);
      },
    });
    const first = into(segment);
    try {
      const winner = await hedged(
        this.#hedging,
        first,
        () => {
          scratch = this.segments.scratch();
          return scratch === undefined ? undefined : into(scratch.segment);
        },
        signal,
      );
      if (winner !== first) await scratch?.copyTo(segment, offset, length);
    } finally {
      scratch?.close();
    }
  }

  #read({ file, offset, length }: Chunk, segment: Segment, signal: AbortSignal): Promise<void> {
    const { key, etag, bytes: size, digest } = this.repository.weights[file] as WeightFile;
    const { store, readRange } = this.#parts;
    return readRange(store, { key, etag, size, offset, length, checksums: digest?.crc32 }, segment, signal);
  }

  #announce({ file, offset, length }: Chunk, tracker: TensorTracker): void {
    this.#bytesDone += length;
    this.#arrived[file]?.add(offset);
    for (const tensor of tracker.arrived(offset, length)) this.#tensors.push({ file, tensor });
    this.#bell.ring();
  }

  /** Where a complete tensor lies now. */
  #tensorReady(index: number): TensorReady {
    const { file, tensor } = this.#tensors[index] as { file: number; tensor: TensorEntry };
    const { path, base } = this.segments.segments[file] as Segment;
    const { name, dtype, shape, length, offset: at } = this.#parts.stored?.(tensor) ?? tensor;
    const offset = base + at;
    return {
      kind: "tensor",
      name,
      dtype,
      shape,
      path,
      offset,
      length,
      runBytes: length,
      strideBytes: length,
      runs: 1,
    };
  }
}

const NO_PEERS: readonly Peer[] = [];

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw toPlatformError(signal.reason);
}

function tooSlow(key: string, deadlineMs: number): PlatformError {
  return new PlatformError("deadlineExceeded", `${key}: a range did not arrive within ${deadlineMs} ms`, {
    remedy: "Check the network and the bucket, or raise chunkDeadlineMs.",
  });
}
