// Tar archives for tests, header by header: also those that no honest tool writes.
export type TestEntry = {
  name: string;
  type?: string;
  content?: Buffer | string;
  link?: string;
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  devMajor?: number;
  devMinor?: number;
  /** Stated size when it is not the content's. */
  size?: number;
  /** Bytes 257 to 265; default POSIX. */
  magic?: string;
  /** Pax records that stand in front. */
  pax?: PaxPairs;
};

/** A list of pairs where a key stands more than once. */
export type PaxPairs = Record<string, string | Buffer> | ReadonlyArray<readonly [string, string | Buffer]>;

export function tar(entries: readonly TestEntry[]): Buffer {
  return Buffer.concat([...entries.flatMap(entryBlocks), Buffer.alloc(1024)]);
}

function entryBlocks(entry: TestEntry): Buffer[] {
  const content = Buffer.from(entry.content ?? "");
  const pax =
    entry.pax === undefined ? [] : entryBlocks({ name: "pax", type: "x", content: paxBody(entry.pax) });
  return [...pax, header(entry, content.length), content, Buffer.alloc((512 - (content.length % 512)) % 512)];
}

export function paxBody(records: PaxPairs): Buffer {
  const pairs = Array.isArray(records)
    ? (records as Array<[string, string | Buffer]>)
    : Object.entries(records);
  return Buffer.concat(
    pairs.map(([key, value]) => {
      const rest = Buffer.concat([
        Buffer.from(` ${key}=`, "latin1"),
        Buffer.from(value as string, "latin1"),
        Buffer.from("\n"),
      ]);
      let length = rest.length + 1;
      while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
      return Buffer.concat([Buffer.from(String(length)), rest]);
    }),
  );
}

function header(entry: TestEntry, contentLength: number): Buffer {
  const block = Buffer.alloc(512);
  const octal = (at: number, width: number, value: number) =>
    block.write(value.toString(8).padStart(width - 1, "0"), at, "latin1");
  block.write(entry.name, 0, 100, "latin1");
  octal(100, 8, entry.mode ?? 0o644);
  octal(108, 8, entry.uid ?? 0);
  octal(116, 8, entry.gid ?? 0);
  octal(124, 12, entry.size ?? contentLength);
  octal(136, 12, entry.mtime ?? 1_700_000_000);
  block.write(entry.type ?? "0", 156, "latin1");
  block.write(entry.link ?? "", 157, 100, "latin1");
  block.write(entry.magic ?? "ustar\u000000", 257, "latin1");
  octal(329, 8, entry.devMajor ?? 0);
  octal(337, 8, entry.devMinor ?? 0);
  return fixChecksum(block);
}

/** Writes the checksum of the header that the archive begins with. */
export function fixChecksum(archive: Buffer): Buffer {
  archive.fill(" ", 148, 156);
  const sum = archive.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  archive.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return archive;
}
