// Byte ranges: what a request means for an object of known size, and how HTTP writes it (RFC 9110, 14). Pure.
import { PlatformError } from "@pilotlight/errors";
import type { ByteRange } from "./store.ts";

/** Throws invalidArgument unless offsets and lengths are whole and not negative. */
export function checkRange(range: ByteRange | undefined): void {
  if (range === undefined) return;
  const numbers = "suffix" in range ? [range.suffix] : [range.offset, range.length ?? 1];
  if (!numbers.every((n) => Number.isSafeInteger(n) && n >= 0) || numbers.at(-1) === 0) {
    throw rangeError(`range ${JSON.stringify(range)} is not made of whole numbers, or is empty`);
  }
}

/** Where a range lies in an object of `size` bytes. One that starts at or past the end is invalidArgument. */
export function resolveRange(range: ByteRange | undefined, size: number): { offset: number; length: number } {
  if (range === undefined) return { offset: 0, length: size };
  if ("suffix" in range) {
    if (size === 0) throw rangeError("range of the last bytes of an empty object");
    const length = Math.min(range.suffix, size);
    return { offset: size - length, length };
  }
  if (range.offset >= size) throw rangeError(`range starts at ${range.offset}, the object ends at ${size}`);
  return { offset: range.offset, length: Math.min(range.length ?? size, size - range.offset) };
}

/** The value of a Range header. */
export function rangeHeader(range: ByteRange): string {
  if ("suffix" in range) return `bytes=-${range.suffix}`;
  return `bytes=${range.offset}-${range.length === undefined ? "" : range.offset + range.length - 1}`;
}

/** Reads `bytes 0-9/100`; undefined when it is malformed. */
export function parseContentRange(
  value: string | undefined,
): { offset: number; length: number; size: number } | undefined {
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(value ?? "");
  if (match === null) return undefined;
  const [first, last, size] = match.slice(1).map(Number) as [number, number, number];
  return first <= last && last < size ? { offset: first, length: last - first + 1, size } : undefined;
}

function rangeError(message: string): PlatformError {
  return new PlatformError("invalidArgument", message, {
    field: "range",
    remedy: "Ask for bytes inside the object.",
  });
}
