// Errors of the addon arrive as JSON in an Error's message, or as a bare message when Rust panicked.

import { ERROR_CODES, type ErrorCode, PlatformError } from "@pilotlight/errors";

/** The PlatformError behind anything that the addon threw; a panic becomes `internal`. */
export function fromNative(thrown: unknown): PlatformError {
  if (thrown instanceof PlatformError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const known = parse(message);
  if (known !== undefined) return known;
  if (isConversionError(thrown)) return new PlatformError("invalidArgument", message, { cause: thrown });
  return new PlatformError("internal", `the engine failed: ${message}`, { cause: thrown });
}

/** The addon's glue met a value of another type than declared, e.g. a string for a number. */
function isConversionError(thrown: unknown): boolean {
  const code = (thrown as { code?: unknown }).code;
  return typeof code === "string" && /Expected$|^InvalidArg$/.test(code);
}

/** The error in an event of the addon. */
export function fromEvent(errorJson: string): PlatformError {
  return parse(errorJson) ?? new PlatformError("internal", `the engine failed: ${errorJson}`);
}

function parse(text: string): PlatformError | undefined {
  if (!text.startsWith("{")) return undefined;
  try {
    const { code, message, field, remedy } = JSON.parse(text) as Record<string, string | null>;
    if (typeof code !== "string" || !(code in ERROR_CODES)) return undefined;
    return new PlatformError(code as ErrorCode, message ?? "", {
      ...(field ? { field } : {}),
      ...(remedy ? { remedy } : {}),
    });
  } catch {
    return undefined;
  }
}
