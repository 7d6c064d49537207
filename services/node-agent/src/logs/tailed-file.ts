// Follows one log file through growth, truncation and rotation, and hands over its records in order, one batch at a time.
//   T1. Nothing is skipped or sent twice: the position moves only when a batch was taken, and names the file's life.
//   T2. A rotated file is read to its end before the next one is opened, however many rotations lie between.
import { createHash, randomBytes } from "node:crypto";
import { closeSync, fstatSync, openSync, readdirSync, readSync, type Stats, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Position, Positions } from "./positions.ts";
import { cutRecords, type RecordLimits } from "./records.ts";

/** Consecutive records of one file. */
export type FileBatch = { life: string; offset: number; end: number; records: string[] };

export type FileLimits = RecordLimits & {
  batchBytesMax: number;
  /** Unshipped bytes beyond this are dropped, oldest first. */
  backlogBytesMax: number;
};

const HEAD_BYTES_MAX = 256;
const LIFE_BYTES = 6;
/** A full backlog is cut to this share, so that it is not cut again at once. */
const BACKLOG_KEPT = 0.75;

export class TailedFile {
  readonly #source: string;
  readonly #path: string;
  readonly #positions: Positions;
  readonly #limits: FileLimits;
  #descriptor: number | undefined;
  #position: Position | undefined;
  #sizeBefore = -1;

  constructor(source: string, path: string, positions: Positions, limits: FileLimits) {
    this.#source = source;
    this.#path = path;
    this.#positions = positions;
    this.#limits = limits;
  }

  /** Bytes of the file's present life that were taken. */
  get shipped(): number {
    return this.#position?.offset ?? 0;
  }

  /**
   * The next batch, written down but not taken yet: until `taken` is called the same one comes again. undefined: nothing
   * new. `over`: nobody writes any more, so a last line without an end is a line.
   */
  next(over: boolean): FileBatch | undefined {
    const opened = this.#open();
    if (opened === undefined) return undefined;
    const { descriptor, position } = opened;
    if (position.pendingEnd !== undefined) return this.#read(descriptor, position, position.pendingEnd);
    const { size } = fstatSync(descriptor);
    if (size < position.offset) {
      this.#begin(descriptor); // emptied and written anew
      return this.next(over);
    }
    const silent = size === this.#sizeBefore;
    this.#sizeBefore = size;
    if (size === position.offset) {
      if (!this.#wasReplaced(position)) return undefined;
      this.close();
      this.#position = undefined;
      return this.next(over);
    }
    const wanted = Math.min(size - position.offset, this.#limits.batchBytesMax);
    const bytes = readRange(descriptor, position.offset, wanted);
    const isAll = position.offset + bytes.length === size;
    const behind = !isAll ? "more" : over || silent ? "silence" : "end";
    const { records, consumed } = cutRecords(bytes, behind, this.#limits);
    if (consumed === 0) return undefined;
    this.#save({
      ...position,
      head: this.#head(descriptor, position, consumed),
      pendingEnd: position.offset + consumed,
    });
    return { life: position.life, offset: position.offset, end: position.offset + consumed, records };
  }

  /** The batch is kept elsewhere. */
  taken(batch: FileBatch): void {
    const position = this.#position;
    if (position === undefined || position.life !== batch.life) return;
    const { pendingEnd: _, skipTo = 0, ...rest } = position;
    this.#position = { ...rest, offset: Math.max(batch.end, skipTo) }; // written with the next batch, or at the end
  }

  /** Gives up the oldest unshipped bytes when there are too many; a line may be cut by it. Gives what was given up. */
  dropBacklog(): { from: number; to: number } | undefined {
    const opened = this.#open();
    if (opened === undefined) return undefined;
    const { position, descriptor } = opened;
    const { backlogBytesMax } = this.#limits;
    const from = Math.max(position.pendingEnd ?? position.offset, position.skipTo ?? 0);
    if (fstatSync(descriptor).size - from <= backlogBytesMax) return undefined;
    const to = fstatSync(descriptor).size - Math.floor(backlogBytesMax * BACKLOG_KEPT);
    this.#save(position.pendingEnd === undefined ? { ...position, offset: to } : { ...position, skipTo: to });
    return { from, to };
  }

  /** True when every byte was taken and the file was not replaced. */
  isDone(): boolean {
    const opened = this.#open();
    if (opened === undefined) return true;
    const { descriptor, position } = opened;
    return (
      position.pendingEnd === undefined &&
      fstatSync(descriptor).size === position.offset &&
      !this.#wasReplaced(position)
    );
  }

  /** Closes the file and writes down how far it was taken. */
  close(): void {
    if (this.#descriptor === undefined) return;
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
    if (this.#position !== undefined) this.#save(this.#position);
  }

  #open(): { descriptor: number; position: Position } | undefined {
    if (this.#descriptor !== undefined && this.#position !== undefined)
      return { descriptor: this.#descriptor, position: this.#position };
    const known = this.#position ?? this.#positions.load(this.#source);
    const descriptor = (known && this.#goOn(known)) ?? openOrUndefined(this.#path);
    if (descriptor === undefined) return undefined;
    this.#descriptor = descriptor;
    if (known !== undefined && isSame(descriptor, known)) this.#position = known;
    else this.#begin(descriptor);
    return this.#position === undefined ? undefined : { descriptor, position: this.#position };
  }

  /**
   * Where to go on after a rotation: the known file under its other name while it has more, else the one that was rotated
   * away next after it. undefined: the file of the name itself.
   */
  #goOn(known: Position): number | undefined {
    if (inodeOf(statOrUndefined(this.#path)) === known.inode) return undefined;
    const rotated = rotatedFiles(this.#path);
    const same = rotated.find(({ stats }) => inodeOf(stats) === known.inode);
    if (same === undefined) return undefined;
    const descriptor = openOrUndefined(same.path);
    if (descriptor !== undefined) {
      if (isSame(descriptor, known) && fstatSync(descriptor).size > known.offset) return descriptor;
      closeSync(descriptor);
    }
    const next = rotated.find(({ stats }) => stats.mtimeMs > same.stats.mtimeMs);
    return next && openOrUndefined(next.path);
  }

  /** Written down at once: a file that is rotated away before its first batch is found again. */
  #begin(descriptor: number): void {
    this.#sizeBefore = -1;
    this.#save({
      life: randomBytes(LIFE_BYTES).toString("hex"),
      inode: inodeOf(fstatSync(descriptor)) ?? "",
      head: { bytes: 0, sha256: "" },
      offset: 0,
    });
  }

  #wasReplaced(position: Position): boolean {
    const now = inodeOf(statOrUndefined(this.#path));
    return now !== undefined && now !== position.inode;
  }

  #read(descriptor: number, position: Position, end: number): FileBatch {
    const bytes = readRange(descriptor, position.offset, end - position.offset);
    return {
      life: position.life,
      offset: position.offset,
      end,
      records: cutRecords(bytes, "silence", this.#limits).records,
    };
  }

  #head(descriptor: number, position: Position, consumed: number): Position["head"] {
    const bytes = Math.min(HEAD_BYTES_MAX, position.offset + consumed);
    return position.head.bytes === bytes ? position.head : { bytes, sha256: headDigest(descriptor, bytes) };
  }

  #save(position: Position): void {
    this.#position = position;
    this.#positions.save(this.#source, position);
  }
}

const inodeOf = (stats: Stats | undefined): string | undefined =>
  stats === undefined ? undefined : `${stats.dev}:${stats.ino}`;

/** Inodes are used again, so the beginning must be the same too, and nothing that was taken may be missing. */
function isSame(descriptor: number, known: Position): boolean {
  const stats = fstatSync(descriptor);
  return (
    inodeOf(stats) === known.inode &&
    stats.size >= (known.pendingEnd ?? known.offset) &&
    headDigest(descriptor, known.head.bytes) === known.head.sha256
  );
}

const headDigest = (descriptor: number, bytes: number): string =>
  bytes === 0
    ? ""
    : createHash("sha256")
        .update(readRange(descriptor, 0, bytes))
        .digest("hex");

function readRange(descriptor: number, offset: number, length: number): Buffer {
  const buffer = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const read = readSync(descriptor, buffer, done, length - done, offset + done);
    if (read === 0) break;
    done += read;
  }
  return buffer.subarray(0, done);
}

function openOrUndefined(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch {
    return undefined;
  }
}

function statOrUndefined(path: string): Stats | undefined {
  return statSync(path, { throwIfNoEntry: false });
}

/** Packed files are not read: rotation should leave the newest ones as they are. */
const PACKED = /\.(?:gz|bz2|xz|zst)$/;

/** Files that were rotated away from a name (`a.log.1`, `a.log-20261121`), the longest unwritten first. */
function rotatedFiles(path: string): { path: string; stats: Stats }[] {
  const [folder, name] = [dirname(path), basename(path)];
  return readdirOrNone(folder)
    .filter((other) => other !== name && other.startsWith(name) && !PACKED.test(other))
    .map((other) => ({ path: join(folder, other), stats: statOrUndefined(join(folder, other)) }))
    .filter((file): file is { path: string; stats: Stats } => file.stats !== undefined)
    .sort((a, b) => a.stats.mtimeMs - b.stats.mtimeMs);
}

function readdirOrNone(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
