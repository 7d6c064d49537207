// One load of one repository: many ranges in flight into segments, tensors announced as they are complete. Any number
// of readers follow the same flight from its beginning; what they read is kept once.
//   W1. A tensor is announced only after every block it touches was fetched under the pinned ETag and matched its
//       checksum where one is known (I6).
//   W2. A flight that fails or is cancelled removes its segments.
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import { Bell } from "./bell.ts";
import { type Chunk, cutIntoChunks, TensorTracker } from "./chunks.ts";
import type { TensorReady, WeightsEvent } from "./events.ts";
import type { RangeReader, Segment, SegmentSet } from "./ports.ts";
import type { Repository, WeightFile } from "./repository.ts";

export type FlightLimits = {
  /** Bytes of one request; a multiple of the checksums' block. */
  chunkBytes: number;
  /** Requests at once. */
  requestsMax: number;
  /** One range must arrive within this; else it is asked for again. */
  chunkDeadlineMs: number;
  /** Attempts for one range, the first included. */
  chunkAttemptsMax: number;
};

const RETRY_DELAY_MS = 200;
const PROGRESS_INTERVAL_MS = 250;

export type FlightParts = {
  repository: Repository;
  store: ObjectStore;
  segments: SegmentSet;
  limits: FlightLimits;
  readRange: RangeReader;
  /** Milliseconds that only go forward. */
  now: () => number;
};

type State = { kind: "flying" } | { kind: "landed" } | { kind: "failed"; error: PlatformError };

export class Flight {
  readonly repository: Repository;
  readonly segments: SegmentSet;
  readonly #parts: FlightParts;
  readonly #stop = new AbortController();
  readonly #tensors: TensorReady[] = [];
  readonly #bell = new Bell();
  readonly #startedAt: number;
  /** Settles when the flight has landed or failed and nothing of it runs any more. Never rejects. */
  readonly done: Promise<void>;
  #state: State = { kind: "flying" };
  #bytesDone = 0;
  #durationMs = 0;

  constructor(parts: FlightParts) {
    this.#parts = parts;
    this.repository = parts.repository;
    this.segments = parts.segments;
    this.#startedAt = parts.now();
    this.done = this.#fly();
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

  /** Bytes that came from the source; what lies on the source's own disk is not fetched. */
  get bytesFetched(): number {
    const { segments } = this.segments;
    return this.repository.weights.reduce((sum, { bytes }, i) => {
      return segments[i]?.place === "source" ? sum : sum + bytes;
    }, 0);
  }

  cancel(): void {
    this.#stop.abort(new PlatformError("cancelled", "nobody waits for these weights any more"));
  }

  /**
   * Everything that happens, from the beginning, at the reader's own pace. `own` is true for the reader whose request
   * started the flight. Throws the flight's failure.
   */
  async *events(own: boolean, signal: AbortSignal): AsyncGenerator<WeightsEvent> {
    const { bytesTotal, tensorsTotal, files } = this.repository;
    const startedAt = this.#parts.now();
    yield { kind: "opened", files, bytesTotal, tensorsTotal, cached: this.landed };
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
        yield this.#tensors[told++] as TensorReady;
        throwIfAborted(signal);
      }
      if (this.#state.kind === "failed") throw this.#state.error;
      if (this.#state.kind === "landed") break;
      const now = this.#parts.now();
      if (now - reported.at >= PROGRESS_INTERVAL_MS) {
        const bytesPerSecond = Math.round(((this.#bytesDone - reported.bytes) / (now - reported.at)) * 1000);
        yield { kind: "progress", bytesDone: this.#bytesDone, bytesTotal, bytesPerSecond };
        reported = { at: now, bytes: this.#bytesDone };
      }
      await change;
    }
  }

  async #fly(): Promise<void> {
    // Readers tell of progress even while no tensor becomes complete.
    const beat = setInterval(() => this.#bell.ring(), PROGRESS_INTERVAL_MS);
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
    const trackers = weights.map(({ header }) => new TensorTracker(header.tensors));
    const chunks = cutIntoChunks(
      weights.map(({ bytes }) => bytes),
      this.#parts.limits.chunkBytes,
    );
    const worker = async (): Promise<void> => {
      for (const chunk of chunks) {
        await this.#fetch(chunk);
        this.#announce(chunk, trackers[chunk.file] as TensorTracker);
      }
    };
    const workers = Array.from({ length: this.#parts.limits.requestsMax }, () =>
      worker().catch((error: unknown) => this.#stop.abort(error)),
    );
    // The first failure stops the others and is the one that is told; all have ended before segments are removed.
    await Promise.all(workers);
    this.#stop.signal.throwIfAborted();
  }

  async #fetch(chunk: Chunk): Promise<void> {
    const { key, etag, digest } = this.repository.weights[chunk.file] as WeightFile;
    const segment = this.segments.segments[chunk.file] as Segment;
    // Without a checksum there is nothing to read in a file that is mapped where it lies.
    if (segment.place === "source" && digest === undefined) return this.#stop.signal.throwIfAborted();
    const { store, readRange, limits } = this.#parts;
    const { offset, length } = chunk;
    for (let attempt = 1; ; attempt++) {
      const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(limits.chunkDeadlineMs)]);
      try {
        return await readRange(
          store,
          { key, etag, offset, length, checksums: digest?.crc32 },
          segment,
          signal,
        );
      } catch (thrown) {
        if (this.#stop.signal.aborted) throw this.#stop.signal.reason;
        const error = signal.aborted ? tooSlow(key, limits.chunkDeadlineMs) : toPlatformError(thrown);
        // A flipped bit may have happened on the way: wrong bytes are asked for again like lost ones.
        if (attempt >= limits.chunkAttemptsMax || !(error.retryable || error.code === "corrupt")) throw error;
        await sleep(RETRY_DELAY_MS * attempt, undefined, { signal: this.#stop.signal });
      }
    }
  }

  #announce({ file, offset, length }: Chunk, tracker: TensorTracker): void {
    const { path } = this.segments.segments[file] as Segment;
    this.#bytesDone += length;
    for (const { name, dtype, shape, offset: start, length: bytes } of tracker.arrived(offset, length)) {
      this.#tensors.push({ kind: "tensor", name, dtype, shape, path, offset: start, length: bytes });
    }
    this.#bell.ring();
  }
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw toPlatformError(signal.reason);
}

function tooSlow(key: string, deadlineMs: number): PlatformError {
  return new PlatformError("deadlineExceeded", `${key}: a range did not arrive within ${deadlineMs} ms`, {
    remedy: "Check the network and the bucket, or raise chunkDeadlineMs.",
  });
}
