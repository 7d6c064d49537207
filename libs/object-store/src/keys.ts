// Which keys are allowed, the same for every kind of store, so that data can move between them: relative paths
// without escapes. Stricter than S3 where a key could leave a directory or mean two objects on a file system. Pure.
import { PlatformError } from "@pilotlight/errors";

/** S3's own limit, bytes of UTF-8. */
const KEY_BYTES_MAX = 1024;
/** The limit of one name on common file systems, bytes of UTF-8. */
const SEGMENT_BYTES_MAX = 255;
/** Names that a directory store keeps for itself (temporary files, the lock). */
export const RESERVED_NAME = ".pilotlight-store";

/** Throws invalidArgument unless `key` is a plain relative path. */
export function checkKey(key: string): void {
  const problem = keyProblem(key);
  if (problem !== undefined) {
    throw new PlatformError("invalidArgument", `key ${JSON.stringify(key.slice(0, 80))} ${problem}`, {
      field: "key",
      remedy: "Use a relative path such as models/smollm2/config.json.",
    });
  }
}

/** Why `key` is not a plain relative path; undefined when it is one. */
export function keyProblem(key: string): string | undefined {
  if (key === "") return "is empty";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(key)) return "has control characters";
  if (!key.isWellFormed()) return "is not valid Unicode";
  if (Buffer.byteLength(key) > KEY_BYTES_MAX) return `is longer than ${KEY_BYTES_MAX} bytes`;
  for (const segment of key.split("/")) {
    if (segment === "") return "has an empty path segment";
    if (segment === "." || segment === "..") return `has a ${segment} segment`;
    if (segment.startsWith(RESERVED_NAME)) return `uses the reserved name ${RESERVED_NAME}`;
    if (Buffer.byteLength(segment) > SEGMENT_BYTES_MAX)
      return `has a name longer than ${SEGMENT_BYTES_MAX} bytes`;
  }
  return undefined;
}

/** Compares keys as stores list them: by their UTF-8 bytes. Returns <0, 0 or >0. */
export function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
