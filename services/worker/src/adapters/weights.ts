// Weights from the node's streamer: tensors are handed over as they arrive, and the stream stays open as the lease of the
// shared memory they lie in.
//
//   G1. Every tensor is handed over once, however often the stream breaks before it is complete.
//   G2. After that a broken stream harms nothing (what is mapped stays mapped); it is opened again so that the streamer
//       knows that the memory is in use (I8).
import { setTimeout as sleep } from "node:timers/promises";
import { type TensorReady, WeightStreamerService } from "@pilotlight/contracts";
import { backoffMs, PlatformError, type RetryPolicy, toPlatformError } from "@pilotlight/errors";
import { grpcClient } from "@pilotlight/service";
import { logger } from "@pilotlight/telemetry";

export type WeightHandlers = {
  /** The repository's small files are there. Awaited before the first tensor. */
  onFiles(files: ReadonlyMap<string, Uint8Array>): Promise<void>;
  /** A tensor can be mapped. At most `tensorsInFlightMax` at a time. */
  onTensor(tensor: TensorReady): Promise<void>;
};

export type WeightSettings = {
  weightStreamerAddress: string;
  source: string;
  replicaId: string;
  tensorsInFlightMax: number;
  retryDelayMsMax: number;
};

export type WeightLease = {
  /** Resolves when every tensor was handed over; rejects when that will never be. */
  loaded: Promise<void>;
  /** Gives the memory back. */
  close(): void;
};

const RETRY_DELAY_MS = 100;

/** Loads weights and holds them until closed. */
export function openWeights(settings: WeightSettings, handlers: WeightHandlers): WeightLease {
  const client = grpcClient(WeightStreamerService, settings.weightStreamerAddress, { timeoutMs: 10_000 });
  const stopper = new AbortController();
  const load = new Load(settings, handlers);
  const loaded = Promise.withResolvers<void>();
  loaded.promise.catch(() => {});
  const policy: RetryPolicy = {
    attemptsMax: Number.POSITIVE_INFINITY,
    initialDelayMs: RETRY_DELAY_MS,
    delayMsMax: settings.retryDelayMsMax,
  };
  const hold = async () => {
    for (let failures = 0; !stopper.signal.aborted; failures++) {
      try {
        const { source, replicaId } = settings;
        const events = client.loadWeights({ source, replicaId }, { signal: stopper.signal });
        await load.take(events, () => {
          failures = 0;
          loaded.resolve();
        });
        throw new PlatformError("unavailable", "the weight streamer ended the stream");
      } catch (thrown) {
        if (stopper.signal.aborted) return;
        const error = toPlatformError(thrown);
        if (!load.isComplete && !error.retryable) return loaded.reject(error);
        if (failures === 0) logger("weights").warn("no weight streamer; opening the stream again", { error });
        const delayMs = backoffMs(policy, Math.min(failures + 1, 20), Math.random());
        await sleep(delayMs, undefined, { signal: stopper.signal }).catch(() => {});
      }
    }
  };
  void hold();
  return {
    loaded: loaded.promise,
    close() {
      stopper.abort();
      client.close();
    },
  };
}

type Events = AsyncIterable<{
  event:
    | { case: "opened"; value: { files: { [name: string]: Uint8Array } } }
    | { case: "tensor"; value: TensorReady }
    | { case: "progress" | "complete"; value: unknown }
    | { case: undefined; value?: undefined };
}>;

/** What was handed over so far, over all streams. */
class Load {
  isComplete = false;
  readonly #settings: WeightSettings;
  readonly #handlers: WeightHandlers;
  readonly #handed = new Set<string>();
  readonly #inFlight = new Set<Promise<void>>();
  #hasFiles = false;
  #failure: PlatformError | null = null;

  constructor(settings: WeightSettings, handlers: WeightHandlers) {
    this.#settings = settings;
    this.#handlers = handlers;
  }

  /** Takes a stream's events until it ends. */
  async take(events: Events, onComplete: () => void): Promise<void> {
    for await (const { event } of events) {
      if (event.case === "complete") {
        await Promise.all(this.#inFlight);
        this.#rethrow();
        this.isComplete = true;
        onComplete();
      } else if (!this.isComplete && event.case === "opened") await this.#takeFiles(event.value.files);
      else if (!this.isComplete && event.case === "tensor") await this.#takeTensor(event.value);
    }
  }

  async #takeFiles(files: { [name: string]: Uint8Array }): Promise<void> {
    if (this.#hasFiles) return;
    await this.#handlers.onFiles(new Map(Object.entries(files)));
    this.#hasFiles = true;
  }

  async #takeTensor(tensor: TensorReady): Promise<void> {
    if (this.#handed.has(tensor.name)) return;
    this.#handed.add(tensor.name);
    const handing = this.#handlers
      .onTensor(tensor)
      .catch((thrown: unknown) => {
        this.#handed.delete(tensor.name);
        this.#failure ??= toPlatformError(thrown);
      })
      .finally(() => void this.#inFlight.delete(handing));
    this.#inFlight.add(handing);
    if (this.#inFlight.size >= this.#settings.tensorsInFlightMax) await Promise.race(this.#inFlight);
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
