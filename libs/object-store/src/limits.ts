// Bounds that every kind of store keeps the same way: size of what `get` holds in memory, and cancellation.
import { PlatformError, toPlatformError } from "@pilotlight/errors";

export const GET_BYTES_MAX_DEFAULT = 64 * 1024 * 1024;

/** The answer when an object or range is larger than the caller wants to hold. */
export function tooLarge(key: string, size: number, bytesMax: number): PlatformError {
  return new PlatformError("invalidArgument", `${key}: ${size} bytes exceed the limit of ${bytesMax}`, {
    field: "bytesMax",
    remedy: "Stream the object, or raise bytesMax.",
  });
}

/** Throws `cancelled` (or `deadlineExceeded`, for a timeout's signal) once the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw toPlatformError(signal.reason);
}
