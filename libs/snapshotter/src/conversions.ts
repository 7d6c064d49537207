// Asks the image converter for the images that containerd pulls: for those that are not converted yet, so that the next pull
// is quick, and again now and then for those that snapshots stand on, so that garbage collection knows of them.
import { ImageConverterService } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { formatPlatform, hostPlatform, withDigest } from "@pilotlight/oci";
import { grpcClient } from "@pilotlight/service";
import { counter, logger } from "@pilotlight/telemetry";
import type { SnapshotterTimes } from "./times.ts";

export type Conversions = {
  /** Returns at once; an image that was asked for lately is not asked for again. */
  want(image: WantedImage): void;
  close(): void;
};

export type WantedImage = { reference: string; manifestDigest: string };

const REMEMBERED_MAX = 10_000;
/** Of calls with one answer; a conversion is awaited as long as it takes. */
const CALL_TIMEOUT_MS = 10_000;

const asked = counter({
  name: "pilotlight_snapshotter_conversions_total",
  help: "Images that the converter was asked for, by how it ended.",
  labelNames: ["outcome"],
});

/** `address`: the image converter, host:port; empty: nobody is asked. */
export function openConversions(
  address: string,
  { askIntervalMs }: Pick<SnapshotterTimes, "askIntervalMs">,
): Conversions {
  if (address === "") return { want: () => undefined, close: () => undefined };
  const log = logger("snapshotter");
  const client = grpcClient(ImageConverterService, address, { timeoutMs: CALL_TIMEOUT_MS });
  const askedAt = new Map<string, number>();
  const stop = new AbortController();
  const ask = async ({ reference, manifestDigest }: WantedImage) => {
    const image = withDigest(reference, manifestDigest);
    const events = client.ensureImage(
      { image, platform: formatPlatform(hostPlatform()) },
      { signal: stop.signal },
    );
    for await (const { event } of events) {
      if (event.case !== "ready") continue;
      log.info("the image is converted", { reference, manifestDigest });
      return;
    }
    throw new PlatformError("unavailable", `the image converter gave no result for ${image}`);
  };
  return {
    want(image) {
      const { reference, manifestDigest } = image;
      const now = performance.now();
      if (reference === "" || now - (askedAt.get(manifestDigest) ?? -askIntervalMs) < askIntervalMs) return;
      if (askedAt.size >= REMEMBERED_MAX) askedAt.clear();
      askedAt.set(manifestDigest, now);
      ask(image).then(
        () => asked.inc({ outcome: "converted" }),
        (error: unknown) => {
          if (stop.signal.aborted) return;
          asked.inc({ outcome: "failed" });
          log.warn("an image is not converted; it is pulled the ordinary way until it is", {
            ...image,
            error: toPlatformError(error),
          });
        },
      );
    },
    close() {
      stop.abort();
      client.close();
    },
  };
}
