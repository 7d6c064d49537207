// Images that this node brings by itself: read from the registry layer by layer as any runtime does, put on the local disk
// uncompressed, and mounted from there. For the time until the converted image is in the bucket; nothing is kept afterwards.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { type ImageRuntime, imagefsRuntime } from "@pilotlight/compute";
import { convertImage } from "@pilotlight/image-conversion";
import { type ImagefsTimes, type MountMethod, openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { type RegistryOptions, withDigest } from "@pilotlight/oci";
import { logger } from "@pilotlight/telemetry";
import type { Pull } from "./image-converter.ts";
import { SharedWork } from "./shared-work.ts";

export type PulledImages = {
  pull: Pull;
  runtime: ImageRuntime;
  /** Removes what was pulled, unless a place uses it or is about to. */
  clear(): Promise<void>;
  /** Ends the mounting processes too if `stop` says so. */
  close(stop: boolean): Promise<void>;
};

export type PulledImagesOptions = {
  method: MountMethod | "auto";
  registry: RegistryOptions;
  /** What was not mounted within this time was not needed. */
  keepMs: number;
  times: ImagefsTimes;
};

/** `directory`: on a local disk with room for whole images. */
export function pulledImages(
  directory: string,
  { method, registry, keepMs, times }: PulledImagesOptions,
): PulledImages {
  const bucket = openStore(`file://${join(directory, "bucket")}`);
  const log = logger("images");
  const mounting = () => {
    const imagefs = openImagefs({ cacheDir: join(directory, "cache"), times });
    const places = imagefsRuntime({
      imagefs,
      bucket,
      directory: join(directory, "places"),
      method,
      learnStarts: false,
    });
    return { imagefs, places };
  };
  let { imagefs, places } = mounting();
  const pulls = new SharedWork<string>();
  let pulledAt = Number.NEGATIVE_INFINITY;

  const clear = async () => {
    if (pulls.busy || performance.now() - pulledAt < keepMs) return;
    if ((await places.places()).length > 0) return;
    // The processes know what is in the cache: they go with it.
    await imagefs.stop();
    await rm(directory, { recursive: true, force: true });
    ({ imagefs, places } = mounting());
  };

  const pullOnce = async (reference: string, manifestDigest: string, signal: AbortSignal) => {
    const startedAt = performance.now();
    const { imageId } = await convertImage({
      source: withDigest(reference, manifestDigest),
      bucket,
      // The disk is faster than a compressor, and nobody else reads it.
      limits: { compressionLevel: 0 },
      registry,
      signal,
    });
    pulledAt = performance.now();
    const durationMs = Math.round(pulledAt - startedAt);
    log.info("pulled an image that is not converted yet", { reference, manifestDigest, durationMs });
    return imageId;
  };

  return {
    async pull(reference, manifestDigest, signal) {
      const bring = (stop: AbortSignal) => pullOnce(reference, manifestDigest, stop);
      const imageId = await pulls.join(manifestDigest, bring, signal);
      return { reference, imageId, manifestDigest, pulled: true };
    },
    runtime: {
      mount: (place, image, signal) => places.mount(place, image, signal),
      launch: (place, image, launch, signal) => places.launch(place, image, launch, signal),
      learnStart: (place) => places.learnStart(place),
      unmount: (place) => places.unmount(place),
      places: () => places.places(),
    },
    clear,
    close: (stop) => (stop ? imagefs.stop() : imagefs.close()),
  };
}
