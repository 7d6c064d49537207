// Weights from the node's streamer: tensors are handed over as they arrive, and the stream stays open as the lease of the
// shared memory they lie in. For a tensor-parallel group there is a stream for each rank, all at once.
//
//   G1. Every tensor of every rank is handed over once, however often a stream breaks before it is complete.
//   G2. After that a broken stream harms nothing (what is mapped stays mapped); it is opened again so that the streamer
//       knows that the memory is in use (I8).
//   G3. A rank that cannot be loaded ends the load of all: every lease is given back.
import { setTimeout as sleep } from "node:timers/promises";
import { type TensorReady, WeightStreamerService } from "@pilotlight/contracts";
import { backoffMs, PlatformError, type RetryPolicy, toPlatformError } from "@pilotlight/errors";
import { grpcClient } from "@pilotlight/service";
import { logger } from "@pilotlight/telemetry";

export type WeightHandlers = {
  /** The repository's small files are there. Awaited before the first tensor; those of one rank, as they are the same. */
  onFiles(files: ReadonlyMap<string, Uint8Array>): Promise<void>;
  /** A tensor of a rank can be mapped. At most `tensorsInFlightMax` at a time. */
  onTensor(tensor: TensorReady, rank: number): Promise<void>;
};

export type WeightSettings = {
  weightStreamerAddress: string;
  source: string;
  replicaId: string;
  /** Of the tensor-parallel group; 1: whole tensors. */
  ranks: number;
  /** Over all ranks. */
  tensorsInFlightMax: number;
  retryDelayMsMax: number;
};

export type WeightLease = {
  /** Resolves when every tensor of every rank was handed over; rejects when that will never be. */
  loaded: Promise<void>;
  /** Gives the memory back. */
  close(): void;
};

const RETRY_DELAY_MS = 100;

/** Loads weights and holds them until closed. */
export function openWeights(settings: WeightSettings, handlers: WeightHandlers): WeightLease {
  const { ranks, source, replicaId } = settings;
  const client = grpcClient(WeightStreamerService, settings.weightStreamerAddress, { timeoutMs: 10_000 });
  const stopper = new AbortController();
  const { signal } = stopper;
  const files = new Files(handlers);
  const policy: RetryPolicy = {
    attemptsMax: Number.POSITIVE_INFINITY,
    initialDelayMs: RETRY_DELAY_MS,
    delayMsMax: settings.retryDelayMsMax,
  };
  const hold = async (rank: number, onLoaded: () => void) => {
    const load = new Load(settings, files, (tensor) => handlers.onTensor(tensor, rank));
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        const events = client.loadWeights({ source, replicaId, rank, ranks }, { signal });
        await load.take(ranks > 1 ? ofRank(events, rank, ranks) : events, () => {
          failures = 0;
          onLoaded();
        });
        throw new PlatformError("unavailable", "the weight streamer ended the stream");
      } catch (thrown) {
        if (signal.aborted) return;
        const error = toPlatformError(thrown);
        if (!load.isComplete && !error.retryable) throw error;
        if (failures === 0)
          logger("weights").warn("no weight streamer; opening the stream again", { rank, error });
        const delayMs = backoffMs(policy, Math.min(failures + 1, 20), Math.random());
        await sleep(delayMs, undefined, { signal }).catch(() => {});
      }
    }
  };
  const holdRank = (_: unknown, rank: number) =>
    new Promise<void>((resolve, reject) => void hold(rank, resolve).catch(reject));
  const loaded = Promise.all(Array.from({ length: ranks }, holdRank)).then(() => {});
  loaded.catch(() => stopper.abort());
  return {
    loaded,
    close() {
      stopper.abort();
      client.close();
    },
  };
}

type Taken = {
  event:
    | { case: "opened"; value: { files: { [name: string]: Uint8Array } } }
    | { case: "tensor"; value: TensorReady }
    | { case: "progress" | "complete"; value: unknown }
    | { case: undefined; value?: undefined };
};
type Events = AsyncIterable<Taken>;

/** A rank's events; an error says whose it is. */
async function* ofRank(events: Events, rank: number, ranks: number): AsyncGenerator<Taken> {
  try {
    yield* events;
  } catch (thrown) {
    const { code, message, field, remedy } = toPlatformError(thrown);
    throw new PlatformError(code, `rank ${rank} of ${ranks}: ${message}`, { field, remedy, cause: thrown });
  }
}

/** The small files, which every rank's stream brings and one hands over. */
class Files {
  readonly #handlers: WeightHandlers;
  #handing: Promise<void> | null = null;

  constructor(handlers: WeightHandlers) {
    this.#handlers = handlers;
  }

  take(files: { [name: string]: Uint8Array }): Promise<void> {
    this.#handing ??= this.#handlers.onFiles(new Map(Object.entries(files))).catch((thrown: unknown) => {
      this.#handing = null;
      throw thrown;
    });
    return this.#handing;
  }
}

/** What of a rank was handed over so far, over all its streams. */
class Load {
  isComplete = false;
  readonly #inFlightMax: number;
  readonly #files: Files;
  readonly #onTensor: (tensor: TensorReady) => Promise<void>;
  readonly #handed = new Set<string>();
  readonly #inFlight = new Set<Promise<void>>();
  #failure: PlatformError | null = null;

  constructor(settings: WeightSettings, files: Files, onTensor: (tensor: TensorReady) => Promise<void>) {
    this.#inFlightMax = Math.max(1, Math.floor(settings.tensorsInFlightMax / settings.ranks));
    this.#files = files;
    this.#onTensor = onTensor;
  }

  /** Takes a stream's events until it ends. */
  async take(events: Events, onComplete: () => void): Promise<void> {
    for await (const { event } of events) {
      if (event.case === "complete") {
        await Promise.all(this.#inFlight);
        this.#rethrow();
        this.isComplete = true;
        onComplete();
      } else if (!this.isComplete && event.case === "opened") await this.#files.take(event.value.files);
      else if (!this.isComplete && event.case === "tensor") await this.#takeTensor(event.value);
    }
  }

  async #takeTensor(tensor: TensorReady): Promise<void> {
    if (this.#handed.has(tensor.name)) return;
    this.#handed.add(tensor.name);
    const handing = this.#onTensor(tensor)
      .catch((thrown: unknown) => {
        this.#handed.delete(tensor.name);
        this.#failure ??= toPlatformError(thrown);
      })
      .finally(() => void this.#inFlight.delete(handing));
    this.#inFlight.add(handing);
    if (this.#inFlight.size >= this.#inFlightMax) await Promise.race(this.#inFlight);
    this.#rethrow();
  }

  /**
   * A tensor that the engine refuses stays wrong. Only one whose file is gone is asked for again: its streamer was
   * restarted before it could be mapped.
   */
  #rethrow(): void {
    const error = this.#failure;
    if (error === null) return;
    this.#failure = null;
    throw new PlatformError(error.code === "notFound" ? "unavailable" : "internal", error.message, {
      cause: error,
    });
  }
}
