// Pax extended header records: "LENGTH KEY=VALUE\n", values may hold any byte. Only what a file system keeps is read.
// Format: POSIX.1-2017 pax(1), "pax Extended Header". Extended attributes: SCHILY.xattr.NAME (star, GNU tar, Go).
import { decimal, malformed } from "./decimal.ts";
import { applySparseRecord, type SparseRecords } from "./sparse.ts";

/** Overrides for the next entry (or, from a global header, for all that follow). Names are byte strings. */
export type PaxRecords = {
  path?: string;
  linkPath?: string;
  size?: number;
  uid?: number;
  gid?: number;
  mtime?: PaxTime;
  xattrs: Map<string, Buffer>;
  /** GNU.sparse.*: the entry is sparse, which changes how its data are to be read. */
  sparse: SparseRecords | undefined;
};

export type PaxTime = { seconds: number; nanoseconds: number };

const XATTR_PREFIX = "SCHILY.xattr.";

/** Reads the records of one extended header on top of `base`. Throws `corrupt`. */
export function parsePax(data: Buffer, base: PaxRecords | undefined): PaxRecords {
  const records: PaxRecords = base
    ? { ...base, xattrs: new Map(base.xattrs) }
    : { xattrs: new Map(), sparse: undefined };
  let position = 0;
  while (position < data.length) {
    const space = data.indexOf(0x20, position);
    const length =
      space === -1 ? Number.NaN : decimal(data.toString("latin1", position, space), "record length");
    const end = position + length;
    if (!(end <= data.length && length > space - position + 2 && data[end - 1] === 0x0a))
      throw malformed("record length");
    const equals = data.indexOf(0x3d, space + 1);
    if (equals === -1 || equals >= end) throw malformed("record");
    apply(records, data.toString("latin1", space + 1, equals), data.subarray(equals + 1, end - 1));
    position = end;
  }
  return records;
}

function apply(records: PaxRecords, key: string, value: Buffer): void {
  const text = () => value.toString("latin1");
  if (key.startsWith(XATTR_PREFIX)) {
    // The value is copied: `data` belongs to the reader.
    records.xattrs.set(key.slice(XATTR_PREFIX.length), Buffer.from(value));
    return;
  }
  switch (key) {
    case "path":
      records.path = text();
      return;
    case "linkpath":
      records.linkPath = text();
      return;
    case "size":
      records.size = decimal(text(), "size");
      return;
    case "uid":
      records.uid = decimal(text(), "uid");
      return;
    case "gid":
      records.gid = decimal(text(), "gid");
      return;
    case "mtime":
      records.mtime = time(text());
      return;
    default:
      // comment, atime, ctime, uname, gname and vendor records do not reach the file system.
      records.sparse = applySparseRecord(records.sparse, key, text());
      return;
  }
}

/** "[-]SECONDS[.FRACTION]"; the fraction is cut to nanoseconds, towards the past as the kernel's timespec wants it. */
function time(text: string): PaxTime {
  const match = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(text);
  if (match === null) throw malformed("mtime");
  const whole = Number(match[2]);
  const nanoseconds = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  if (match[1] === "") return { seconds: whole, nanoseconds };
  return nanoseconds === 0
    ? { seconds: -whole, nanoseconds }
    : { seconds: -whole - 1, nanoseconds: 1e9 - nanoseconds };
}
