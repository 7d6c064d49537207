// Removes from the bucket, now and then, what no version and no recent start needs: images, and what engines compiled in them. Of
// several converters one does it.
// A start that was told of an image just before it went finds it missing and asks again (the node agent does): nothing that is
// mounted is harmed, for packs outlive their last image by the grace period. One that loses its compile cache compiles again.
import { watchDocuments } from "@pilotlight/bus";
import { collectCompileCaches } from "@pilotlight/compile-caches";
import { type BoundsSet, EVENTS } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import { collectGarbage } from "@pilotlight/image-conversion";
import type { ObjectStore } from "@pilotlight/object-store";
import type { Store } from "@pilotlight/store";
import { counter, logger } from "@pilotlight/telemetry";
import { cacheSpecificationsOfVersions, digestsInUse, imagesOfVersions } from "./domain/images-in-use.ts";
import { listUses } from "./store/conversions.ts";

export type GarbageConfig = {
  readonly workerImage: string;
  /** 0: never. */
  readonly garbageIntervalMs: number;
  readonly garbageGraceMs: number;
};

export type GarbagePorts = {
  store: Store;
  bus: Parameters<typeof watchDocuments>[0];
  bucket: ObjectStore;
};

/** Goodbye to the database. */
const END_TIMEOUT_S = 1;

const deletedOfImages = counter({
  name: "pilotlight_image_garbage_bytes_total",
  help: "Bytes of images that garbage collection removed from the bucket.",
});
const deletedOfCaches = counter({
  name: "pilotlight_compile_cache_garbage_bytes_total",
  help: "Bytes of compile caches that garbage collection removed from the bucket.",
});

/** Starts collecting; returns how to stop. */
export function startGarbageCollection(ports: GarbagePorts, config: GarbageConfig): () => Promise<void> {
  if (config.garbageIntervalMs === 0) return async () => {};
  const log = logger("garbage");
  const stop = new AbortController();
  let running: Promise<void> = Promise.resolve();
  let isRunning = false;
  const round = async () => {
    isRunning = true;
    try {
      await collectOnce(ports, config, stop.signal);
    } catch (error) {
      if (!stop.signal.aborted) log.warn("garbage cannot be collected", { error: toPlatformError(error) });
    } finally {
      isRunning = false;
    }
  };
  const timer = setInterval(() => {
    if (!isRunning) running = round();
  }, config.garbageIntervalMs);
  return async () => {
    clearInterval(timer);
    stop.abort();
    await running;
  };
}

async function collectOnce(ports: GarbagePorts, config: GarbageConfig, signal: AbortSignal): Promise<void> {
  const { store, bucket } = ports;
  const lost = new AbortController();
  const session = store.session(() => lost.abort());
  try {
    const [row] = await session<{ ours: boolean }[]>`
      select pg_try_advisory_lock(hashtextextended('image_converter.garbage', 0)) as ours`;
    if (row?.ours !== true) return;
    const bounds = await boundsNow(ports, signal);
    const now = Date.now();
    const { workerImage, garbageGraceMs: graceMs } = config;
    const images = digestsInUse(
      await listUses(store.sql),
      imagesOfVersions(bounds, workerImage),
      now,
      graceMs,
    );
    const common = { bucket, graceMs, now, signal: AbortSignal.any([signal, lost.signal]) };
    const ofImages = await collectGarbage({ ...common, inUse: images });
    deletedOfImages.inc({}, ofImages.deletedBytes);
    const caches = { specifications: cacheSpecificationsOfVersions(bounds), manifestDigests: images };
    const ofCaches = await collectCompileCaches({ ...common, inUse: caches });
    deletedOfCaches.inc({}, ofCaches.deletedBytes);
    if (ofImages.deletedBytes > 0)
      logger("garbage").info("collected", { ...ofImages, imagesInUse: images.size });
    if (ofCaches.deletedBytes > 0) logger("garbage").info("compile caches collected", ofCaches);
  } finally {
    await session.end({ timeout: END_TIMEOUT_S }).catch(() => {});
  }
}

/** The bounds of every application, as they are now. */
async function boundsNow({ bus }: GarbagePorts, signal: AbortSignal): Promise<BoundsSet[]> {
  const latest = new Map<string, BoundsSet>();
  const watch = await watchDocuments(bus, EVENTS.boundsSet, {}, (bounds) => {
    latest.set(bounds.application, bounds);
  });
  try {
    const stopped = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    await Promise.race([watch.current, stopped]);
    return [...latest.values()];
  } finally {
    await watch.close();
  }
}
