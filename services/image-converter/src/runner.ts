// The runner: claims wanted conversions, does them, tells the outcome. Work survives a kill: the row stays claimed until the
// claim runs out, then any converter takes it over, and finished layers are found in the bucket.
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, type Outbox, publishSample } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ConvertedImage, ConvertProgress } from "@pilotlight/image-conversion";
import type { Store } from "@pilotlight/store";
import { gauge, logger } from "@pilotlight/telemetry";
import type { ConverterConfig } from "./config.ts";
import {
  type Conversion,
  type ConversionKey,
  claimConversions,
  type Failure,
  finishConversion,
  type ReadyImage,
  readConversion,
  renewClaim,
  wantConversion,
} from "./store/conversions.ts";

export type RunnerPorts = {
  store: Store;
  bus: Bus;
  outbox: Outbox;
  convert: (
    key: ConversionKey,
    onProgress: (progress: ConvertProgress) => void,
    signal: AbortSignal,
  ) => Promise<ConvertedImage>;
};

type Watcher = (progress: ConvertProgress) => void;

const running = gauge({
  name: "pilotlight_conversions_running",
  help: "Images being converted by this process.",
});

export class ConversionRunner {
  readonly #ports: RunnerPorts;
  readonly #config: ConverterConfig;
  readonly #by = `${hostname()}-${process.pid}-${Date.now()}`;
  readonly #active = new Map<string, Promise<void>>();
  readonly #watchers = new Map<string, Set<Watcher>>();
  readonly #stopper = new AbortController();
  readonly #log = logger("runner");
  #wake: () => void = () => {};
  #loop: Promise<void> | undefined;

  constructor(ports: RunnerPorts, config: ConverterConfig) {
    this.#ports = ports;
    this.#config = config;
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Stops claiming, cancels what is under way and gives it back for others. */
  async stop(): Promise<void> {
    this.#stopper.abort();
    this.#wake();
    await this.#loop;
    await Promise.allSettled(this.#active.values());
  }

  /** Looks for work now. */
  wake(): void {
    this.#wake();
  }

  /** Sees to it that the image is converted and waits for the outcome. Progress comes while this process converts. */
  async ensure(key: ConversionKey, onProgress: Watcher, signal: AbortSignal): Promise<ReadyImage> {
    const { sql } = this.#ports.store;
    await wantConversion(sql, key, new Date());
    this.#wake();
    const name = nameOf(key);
    const watchers = this.#watchers.get(name) ?? new Set();
    this.#watchers.set(name, watchers.add(onProgress));
    try {
      for (;;) {
        signal.throwIfAborted();
        const conversion = await readConversion(sql, key);
        if (conversion?.state === "ready") return conversion;
        if (conversion?.state === "failed") throw failed(conversion);
        // Ours: wait for it to end. Another converter's: look again.
        const ours = this.#active.get(name);
        const pause = sleep(ours === undefined ? 50 : this.#config.pollIntervalMs, undefined, { signal });
        await Promise.race(ours === undefined ? [pause] : [ours, pause]);
      }
    } finally {
      watchers.delete(onProgress);
      if (watchers.size === 0) this.#watchers.delete(name);
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopper;
    while (!signal.aborted) {
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      try {
        await this.#claim();
      } catch (error) {
        this.#log.warn("cannot look for work", { error: toPlatformError(error) });
      }
      const timer = new AbortController();
      await Promise.race([
        woken,
        sleep(this.#config.pollIntervalMs, undefined, { signal: timer.signal }).catch(() => {}),
      ]);
      timer.abort();
    }
  }

  async #claim(): Promise<void> {
    const limit = this.#config.conversionsMax - this.#active.size;
    if (limit <= 0) return;
    const now = Date.now();
    const claim = { by: this.#by, now: new Date(now), until: new Date(now + this.#config.claimMs), limit };
    for (const key of await claimConversions(this.#ports.store.sql, claim)) {
      const work = this.#convert(key).finally(() => {
        this.#active.delete(nameOf(key));
        running.set(this.#active.size);
        this.#wake();
      });
      this.#active.set(nameOf(key), work);
      running.set(this.#active.size);
    }
  }

  async #convert(key: ConversionKey): Promise<void> {
    const lost = new AbortController();
    const signal = AbortSignal.any([this.#stopper.signal, lost.signal]);
    const renewal = setInterval(() => void this.#renew(key, lost), this.#config.claimMs / 3);
    const startedAt = Date.now();
    try {
      const image = await this.#ports.convert(key, (progress) => this.#tell(key, progress), signal);
      const ready = readyImage(image, Date.now() - startedAt);
      await this.#finish(key, { ready });
      this.#log.info("image ready", {
        ...key,
        imageId: image.imageId,
        durationMs: ready.durationMs,
        uploadedBytes: image.uploadedBytes,
      });
    } catch (thrown) {
      // Stopped in the middle: the claim runs out and the next converter goes on from the layers that are there.
      if (signal.aborted) return;
      const error = toPlatformError(thrown);
      this.#log.warn("image failed", { ...key, error });
      await this.#finish(key, {
        failure: { code: error.code, message: error.message, remedy: error.remedy ?? "" },
      });
    } finally {
      clearInterval(renewal);
    }
  }

  async #renew(key: ConversionKey, lost: AbortController): Promise<void> {
    const until = new Date(Date.now() + this.#config.claimMs);
    const renewed = await renewClaim(this.#ports.store.sql, key, { by: this.#by, until }).then(
      (rows) => rows.count > 0,
      () => true, // the database is away: keep working, the row decides in the end
    );
    if (!renewed) lost.abort(new PlatformError("conflict", "another converter took the work over"));
  }

  async #finish(key: ConversionKey, outcome: { ready: ReadyImage } | { failure: Failure }): Promise<void> {
    await this.#ports.outbox.transaction(async (tx, publish) => {
      if (!(await finishConversion(tx, key, this.#by, outcome, new Date()))) return;
      if ("ready" in outcome) publish(EVENTS.imageReady, { ...key, ...outcome.ready });
      else publish(EVENTS.imageFailed, { ...key, failure: outcome.failure });
    });
  }

  #tell(key: ConversionKey, progress: ConvertProgress): void {
    for (const watcher of this.#watchers.get(nameOf(key)) ?? []) watcher(progress);
    publishSample(this.#ports.bus, EVENTS.imageProgressed, {
      image: key.image,
      manifestDigest: progress.manifestDigest,
      bytesDone: BigInt(progress.doneBytes),
      bytesTotal: BigInt(progress.totalBytes),
      bytesPerSecond: BigInt(Math.round(progress.bytesPerSecond)),
    });
  }
}

const nameOf = (key: ConversionKey) => `${key.platform} ${key.image}`;

function failed(conversion: Conversion & { state: "failed" }): PlatformError {
  const { code, message, remedy } = conversion.failure;
  return new PlatformError(code as PlatformError["code"], message, remedy === "" ? {} : { remedy });
}

function readyImage(image: ConvertedImage, durationMs: number): ReadyImage {
  return {
    manifestDigest: image.manifestDigest,
    imageId: image.imageId,
    unpackedBytes: BigInt(image.sizes.contentBytes),
    storedBytes: BigInt(image.sizes.wireBytes),
    uploadedBytes: BigInt(image.uploadedBytes),
    durationMs,
  };
}
