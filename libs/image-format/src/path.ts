// Paths in layers: how a tar name becomes a list of components, and which names are refused. Byte strings throughout.
import { PlatformError } from "@pilotlight/errors";
import { textOfBytes } from "./byte-string.ts";

/** The kernel's limits (NAME_MAX, PATH_MAX). */
export const NAME_BYTES_MAX = 255;
export const PATH_BYTES_MAX = 4096;

/** Deeper trees than this cannot be opened by path anyway; the bound keeps recursion away from hostile archives. */
export const DEPTH_MAX = 1024;

/**
 * The normal form of an entry's name: no leading or trailing slash, no "." or empty components; "" is the root.
 * Names that climb (".."), hold NUL, or exceed the kernel's limits are refused: no honest builder writes them.
 */
export function normalisePath(name: string): string {
  if (name.length > PATH_BYTES_MAX) throw refused(name, `is longer than ${PATH_BYTES_MAX} bytes`);
  if (name.includes("\0")) throw refused(name, "holds a NUL byte");
  const parts: string[] = [];
  for (const part of name.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") throw refused(name, "climbs out with ..");
    if (part.length > NAME_BYTES_MAX) throw refused(name, `has a component above ${NAME_BYTES_MAX} bytes`);
    parts.push(part);
  }
  if (parts.length > DEPTH_MAX) throw refused(name, `is deeper than ${DEPTH_MAX} directories`);
  return parts.join("/");
}

export function parentOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash === -1 ? "" : path.slice(0, slash);
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function refused(name: string, why: string): PlatformError {
  const shown = textOfBytes(name.length > 200 ? `${name.slice(0, 200)}…` : name);
  return new PlatformError(
    "corrupt",
    `the archive has an entry whose path ${why}: ${JSON.stringify(shown)}`,
    {
      remedy: "The archive is hostile or was written by a broken tool; do not run what is in it.",
    },
  );
}
