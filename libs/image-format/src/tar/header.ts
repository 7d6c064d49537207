// One 512-byte tar header: ustar, old GNU and V7, with base-256 numbers. Pax records are read in pax.ts.
// Formats: POSIX.1-2017 pax(1), https://www.gnu.org/software/tar/manual/html_node/Standard.html.
import { PlatformError } from "@pilotlight/errors";

export const TAR_BLOCK_BYTES = 512;

/** A header as it stands, before pax and GNU long names are applied. Names are byte strings. */
export type RawHeader = {
  name: string;
  linkName: string;
  type: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSeconds: number;
  devMajor: number;
  devMinor: number;
};

/** Reads a header block; undefined for a block of zeros (the end mark). Throws `corrupt`. */
export function parseHeader(block: Buffer): RawHeader | undefined {
  if (!verifyChecksum(block)) {
    if (isZeros(block)) return undefined;
    throw new PlatformError("corrupt", "a tar header has a wrong checksum", {
      remedy: "The layer is damaged or not a tar archive; push the image again.",
    });
  }
  const magic = block.toString("latin1", 257, 265);
  const posix = magic.startsWith("ustar\0");
  const name = field(block, 0, 100);
  const prefix = posix ? field(block, 345, 155) : "";
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    linkName: field(block, 157, 100),
    type: block[156] === 0 ? "0" : String.fromCharCode(block[156] ?? 0),
    mode: headerNumber(block, 100, 8, "mode") & 0o7777,
    uid: headerNumber(block, 108, 8, "uid"),
    gid: headerNumber(block, 116, 8, "gid"),
    size: headerNumber(block, 124, 12, "size"),
    mtimeSeconds: headerNumber(block, 136, 12, "mtime"),
    devMajor: headerNumber(block, 329, 8, "device"),
    devMinor: headerNumber(block, 337, 8, "device"),
  };
}

/** A number field of a header or of a sparse file's map. Throws `corrupt`. */
export function headerNumber(block: Buffer, start: number, length: number, what: string): number {
  const value = number(block, start, length);
  if (Number.isNaN(value)) throw new PlatformError("corrupt", `a tar header's ${what} is not a number`);
  return value;
}

function verifyChecksum(block: Buffer): boolean {
  const expected = number(block, 148, 8);
  let unsigned = 8 * 32;
  let signed = 8 * 32;
  for (let i = 0; i < TAR_BLOCK_BYTES; i++) {
    if (i >= 148 && i < 156) continue;
    const byte = block[i] ?? 0;
    unsigned += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  return expected === unsigned || expected === signed;
}

function isZeros(block: Buffer): boolean {
  return block.every((byte) => byte === 0);
}

function field(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString("latin1", start, end === -1 || end > start + length ? start + length : end);
}

/** Octal text, or base-256 when the first bit is set (GNU, star). Empty means 0, anything else is NaN. */
function number(block: Buffer, start: number, length: number): number {
  const first = block[start] ?? 0;
  if ((first & 0x80) !== 0) return base256(block, start, length);
  const text = block
    .toString("latin1", start, start + length)
    .replace(/[\0 ]+$/g, "")
    .trimStart();
  if (text === "") return 0;
  return /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN;
}

function base256(block: Buffer, start: number, length: number): number {
  const negative = ((block[start] ?? 0) & 0x40) !== 0;
  let value = negative ? -1n : 0n;
  for (let i = 0; i < length; i++) {
    const byte = block[start + i] ?? 0;
    value = (value << 8n) | BigInt(i === 0 ? (negative ? byte | 0x80 : byte & 0x7f) : byte);
  }
  if (negative) value = BigInt.asIntN(length * 8, value);
  const result = Number(value);
  if (!Number.isSafeInteger(result))
    throw new PlatformError("corrupt", "a tar header holds a number beyond 2^53");
  return result;
}
