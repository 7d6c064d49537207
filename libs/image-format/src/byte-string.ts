// Names in tar archives and file systems are bytes, not text. Inside this package they are "byte strings": JavaScript
// strings in which every character stands for one byte (latin1), so that odd UTF-8 survives and ordering is bytewise.

/** The byte string of a text (its UTF-8 bytes). */
export function bytesOfText(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

/** The text of a byte string for people and JSON; bytes that are no UTF-8 become U+FFFD. */
export function textOfBytes(bytes: string): string {
  return Buffer.from(bytes, "latin1").toString("utf8");
}

/** Orders byte strings bytewise, as the kernel's directory search expects. */
export function compareBytes(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
