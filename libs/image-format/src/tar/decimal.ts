// Decimal numbers as pax headers and the maps of sparse files write them.
import { PlatformError } from "@pilotlight/errors";

/** The text as a number from 0 to 2^53. Throws `corrupt`. */
export function decimal(text: string, what: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw malformed(what);
  return value;
}

export function malformed(what: string): PlatformError {
  return new PlatformError("corrupt", `a pax header has a malformed ${what}`, {
    remedy: "The layer is damaged or was written by a broken tool; push the image again.",
  });
}
