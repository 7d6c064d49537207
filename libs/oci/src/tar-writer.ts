// Writes tar archives whose bytes depend on their entries alone: no clock, no user names, one order. ustar where it fits,
// pax records where it does not (long names, large sizes, extended attributes).
import { PlatformError } from "@pilotlight/errors";

export type TarItem = {
  /** Relative, without a leading slash; directories without a trailing one. */
  path: string;
  mode: number;
  uid?: number;
  gid?: number;
  /** Whole seconds. Default 0. */
  mtimeSeconds?: number;
  xattrs?: Record<string, Buffer>;
} & (
  | { kind: "file"; size: number; content: () => AsyncIterable<Buffer> }
  | { kind: "directory" }
  | { kind: "symlink" | "hardlink"; target: string }
);

const BLOCK = 512;
const TYPES = { file: "0", hardlink: "1", symlink: "2", directory: "5" } as const;

/** The archive's bytes, in the order of `items`. Throws `invalidArgument` when a content has another size than stated. */
export async function* writeTar(items: Iterable<TarItem>): AsyncGenerator<Buffer> {
  for (const item of items) {
    yield* headers(item);
    if (item.kind === "file") yield* content(item.path, item.size, item.content());
  }
  yield Buffer.alloc(2 * BLOCK);
}

function* headers(item: TarItem): Generator<Buffer> {
  const name = Buffer.from(item.kind === "directory" ? `${item.path}/` : item.path, "utf8");
  const target = Buffer.from("target" in item ? item.target : "", "utf8");
  const size = item.kind === "file" ? item.size : 0;
  const records: Buffer[] = [];
  if (name.length > 100) records.push(paxRecord("path", name));
  if (target.length > 100) records.push(paxRecord("linkpath", target));
  if (size > 0o77777777777) records.push(paxRecord("size", Buffer.from(String(size))));
  for (const [key, value] of Object.entries(item.xattrs ?? {}).sort())
    records.push(paxRecord(`SCHILY.xattr.${key}`, value));
  if (records.length > 0) {
    const body = Buffer.concat(records);
    yield header({
      name: Buffer.from("pax"),
      target: Buffer.alloc(0),
      type: "x",
      size: body.length,
      mode: 0o644,
      uid: 0,
      gid: 0,
      mtime: 0,
    });
    yield padded(body);
  }
  const { mode, uid = 0, gid = 0, mtimeSeconds = 0 } = item;
  const stated = size > 0o77777777777 ? 0 : size;
  yield header({ name, target, type: TYPES[item.kind], size: stated, mode, uid, gid, mtime: mtimeSeconds });
}

type Header = {
  name: Buffer;
  target: Buffer;
  type: string;
  size: number;
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
};

function header(h: Header): Buffer {
  const block = Buffer.alloc(BLOCK);
  h.name.copy(block, 0, 0, 100);
  octal(block, 100, 8, h.mode & 0o7777);
  octal(block, 108, 8, h.uid);
  octal(block, 116, 8, h.gid);
  octal(block, 124, 12, h.size);
  octal(block, 136, 12, h.mtime);
  block.fill(" ", 148, 156);
  block.write(h.type, 156, "latin1");
  h.target.copy(block, 157, 0, 100);
  block.write("ustar\u000000", 257, "latin1");
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

function octal(block: Buffer, at: number, bytes: number, value: number): void {
  const text = value.toString(8).padStart(bytes - 1, "0");
  if (text.length > bytes - 1 || value < 0)
    throw new PlatformError("invalidArgument", `${value} does not fit a tar header`);
  block.write(text, at, "latin1");
}

/** "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from("\n")]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

async function* content(path: string, size: number, pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const piece of pieces) {
    bytes += piece.length;
    if (bytes > size) break;
    yield piece;
  }
  if (bytes !== size) {
    throw new PlatformError(
      "invalidArgument",
      `${path} changed while it was read: ${bytes} bytes instead of ${size}`,
      {
        remedy: "Write the image again when its files are at rest.",
      },
    );
  }
  yield Buffer.alloc(paddingOf(size));
}

function padded(body: Buffer): Buffer {
  return Buffer.concat([body, Buffer.alloc(paddingOf(body.length))]);
}

function paddingOf(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}
