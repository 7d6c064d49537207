// Asks the image converter for a mountable image, and does not wait for it longer than the ordinary way would take.
import type { ImageToMount } from "@pilotlight/compute";
import type { ImageConverterService } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { GrpcClient } from "@pilotlight/service";
import { logger } from "@pilotlight/telemetry";

/** The name that OCI gives this machine's architecture. */
const PLATFORM = `linux/${process.arch === "x64" ? "amd64" : process.arch}`;

/** Brings an image to this node without the converter. */
export type Pull = (reference: string, manifestDigest: string, signal: AbortSignal) => Promise<ImageToMount>;

/**
 * Resolves the reference and waits until the image can be mounted. An image that is seen for the first time is pulled by this
 * node while the converter works; what comes first is used. Only what the converter has resolved is pulled: it holds the
 * policy. Fails with the converter's own error; a converter that went away in the middle is `unavailable`, so that the caller
 * tries again, unless the pull still brings the image.
 */
export async function ensureImage(
  converter: GrpcClient<typeof ImageConverterService>,
  reference: string,
  pull: Pull | undefined,
  signal: AbortSignal,
): Promise<ImageToMount> {
  const decided = new AbortController();
  const either = AbortSignal.any([signal, decided.signal]);
  let pulling: Promise<ImageToMount> | undefined;
  const conversion = convert(converter, reference, either, (manifestDigest) => {
    pulling ??= pull?.(reference, manifestDigest, either);
    // Told below, or of no interest any more.
    pulling?.catch(() => undefined);
    return pulling;
  });
  try {
    return await conversion;
  } catch (error) {
    const { code } = toPlatformError(error);
    if (pulling === undefined || signal.aborted || code === "permissionDenied") throw error;
    logger("images").warn("the converter failed; waiting for the pull", {
      reference,
      error: toPlatformError(error),
    });
    return await pulling.catch(() => {
      throw error;
    });
  } finally {
    decided.abort();
  }
}

/** `onResolved` may start another way to the image: when that one ends well first, its result is taken. */
async function convert(
  converter: GrpcClient<typeof ImageConverterService>,
  reference: string,
  signal: AbortSignal,
  onResolved: (manifestDigest: string) => Promise<ImageToMount> | undefined,
): Promise<ImageToMount> {
  const events = converter
    .ensureImage({ image: reference, platform: PLATFORM }, { signal })
    [Symbol.asyncIterator]();
  let other: Promise<ImageToMount> | undefined;
  try {
    for (;;) {
      const next = events.next();
      next.catch(() => undefined);
      const first = await (other === undefined ? next : Promise.race([next, succeeded(other)]));
      if ("imageId" in first) return first;
      if (first.done === true) break;
      const { event } = first.value;
      if (event.case === "ready") {
        const { imageId, manifestDigest } = event.value;
        return { reference, imageId, manifestDigest };
      }
      if (event.case === "progressed" && event.value.manifestDigest !== "")
        other ??= onResolved(event.value.manifestDigest);
    }
  } catch (thrown) {
    const error = toPlatformError(thrown);
    if (error.code !== "cancelled" && error.code !== "internal") throw error;
    throw new PlatformError("unavailable", `the image converter broke off: ${error.message}`, {
      cause: error,
    });
  }
  throw new PlatformError("unavailable", `the image converter gave no result for ${reference}`);
}

/** Never settles for a failure: the other way goes on. */
const succeeded = <T>(promise: Promise<T>): Promise<T> =>
  promise.catch(() => new Promise<never>(() => undefined));
