// Asks the image converter for a mountable image.
import type { ImageToMount } from "@pilotlight/compute";
import type { ImageConverterService } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { GrpcClient } from "@pilotlight/service";

/** The name that OCI gives this machine's architecture. */
const PLATFORM = `linux/${process.arch === "x64" ? "amd64" : process.arch}`;

/**
 * Resolves the reference and waits until the image can be mounted. Fails with the converter's own error; a converter that
 * went away in the middle is `unavailable`, so that the caller tries again.
 */
export async function ensureImage(
  converter: GrpcClient<typeof ImageConverterService>,
  reference: string,
  signal: AbortSignal,
): Promise<ImageToMount> {
  try {
    for await (const { event } of converter.ensureImage(
      { image: reference, platform: PLATFORM },
      { signal },
    )) {
      if (event.case !== "ready") continue;
      const { imageId, manifestDigest } = event.value;
      return { reference, imageId, manifestDigest };
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
