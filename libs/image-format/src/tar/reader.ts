// A streaming tar reader: bytes are pushed in, entries and their data come out by callback, nothing is kept but the
// header at hand. It is exact about names (bytes), bounded about headers, and refuses what it would get wrong.
//   T1. Data of an entry are handed out in order, in pieces that are valid only during the call.
//   T2. Sparse files come out as if they were not: what is not stored is told as a number of zeros, never written out.
//   T3. A stream that ends inside an entry is `corrupt`; a missing end mark alone is accepted, as GNU tar does.
import { PlatformError } from "@pilotlight/errors";
import { parseHeader, type RawHeader, TAR_BLOCK_BYTES } from "./header.ts";
import { type PaxRecords, parsePax } from "./pax.ts";
import {
  mapTooLong,
  planSparse,
  readOldGnuExtension,
  readOldGnuSparse,
  readSparseRecords,
  SPARSE_MAP_BYTES_MAX,
  SparseMapReader,
  type SparseRecords,
  type SparseRun,
  type SparseStep,
} from "./sparse.ts";

export type TarEntryKind =
  | "file"
  | "directory"
  | "symlink"
  | "hardlink"
  | "charDevice"
  | "blockDevice"
  | "fifo";

/** One entry as the archive states it; names are byte strings, not yet normalised. */
export type TarEntry = {
  name: string;
  kind: TarEntryKind;
  mode: number;
  uid: number;
  gid: number;
  /** Bytes of content, holes of sparse files included; 0 for everything but files. */
  size: number;
  mtimeSeconds: number;
  mtimeNanoseconds: number;
  linkTarget: string;
  devMajor: number;
  devMinor: number;
  xattrs: ReadonlyMap<string, Buffer>;
};

export type TarSink = {
  entry(entry: TarEntry): void;
  /** A piece of the last entry's data. */
  data(piece: Buffer): void;
  /** The last entry goes on with this many zeros. */
  hole(bytes: number): void;
  /** The last entry is complete. */
  end(): void;
};

/** Long names and pax headers: far above what tools write, far below what would hurt. */
const META_BYTES_MAX = 1 << 20;

const KINDS: Record<string, TarEntryKind> = {
  "0": "file",
  "7": "file",
  S: "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "charDevice",
  "4": "blockDevice",
  "5": "directory",
  "6": "fifo",
};
const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map();

type State =
  | { at: "header" }
  | { at: "meta"; type: string; buffer: Buffer; filled: number; padding: number }
  | { at: "oldSparseMap"; entry: TarEntry; size: number; runs: SparseRun[]; blocks: number }
  | { at: "sparseMap"; entry: TarEntry; size: number; map: SparseMapReader }
  | { at: "data"; left: number; steps: readonly SparseStep[]; next: number; padding: number }
  | { at: "padding"; left: number }
  | { at: "end" };

export class TarReader {
  readonly #sink: TarSink;
  #state: State = { at: "header" };
  readonly #block = Buffer.alloc(TAR_BLOCK_BYTES);
  #blockFilled = 0;
  #longName: string | undefined;
  #longLink: string | undefined;
  #globalPax: PaxRecords | undefined;
  #pax: PaxRecords | undefined;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** The archive is over. Throws `corrupt` when it ended in the middle of something. */
  finish(): void {
    const state = this.#state;
    const complete =
      state.at === "end" || (state.at === "header" && this.#blockFilled === 0 && !this.#pendingMeta());
    if (!complete) {
      throw new PlatformError("corrupt", "the tar archive ends in the middle of an entry", {
        remedy: "The layer is truncated; push the image again.",
      });
    }
  }

  #pendingMeta(): boolean {
    return this.#pax !== undefined || this.#longName !== undefined || this.#longLink !== undefined;
  }

  /**
   * Takes the next bytes of the archive, from `position` on, up to the next border of something; returns how many. Of an
   * entry's data that is at most one run of a sparse file. Throws `corrupt` or `unsupported`; the reader is unusable after.
   */
  push(bytes: Buffer, position: number): number {
    const state = this.#state;
    const available = bytes.length - position;
    switch (state.at) {
      case "header":
      case "oldSparseMap":
      case "sparseMap": {
        const taken = Math.min(available, TAR_BLOCK_BYTES - this.#blockFilled);
        bytes.copy(this.#block, this.#blockFilled, position, position + taken);
        this.#blockFilled += taken;
        if (this.#blockFilled === TAR_BLOCK_BYTES) {
          this.#blockFilled = 0;
          if (state.at === "header") this.#onHeader();
          else if (state.at === "oldSparseMap") this.#onOldSparseMap(state);
          else this.#onSparseMap(state);
        }
        return taken;
      }
      case "meta": {
        const taken = Math.min(available, state.buffer.length - state.filled);
        bytes.copy(state.buffer, state.filled, position, position + taken);
        state.filled += taken;
        if (state.filled === state.buffer.length) this.#onMeta(state);
        return taken;
      }
      case "data": {
        const taken = Math.min(available, state.left);
        this.#sink.data(bytes.subarray(position, position + taken));
        state.left -= taken;
        if (state.left === 0) this.#nextRun(state);
        return taken;
      }
      case "padding": {
        const taken = Math.min(available, state.left);
        state.left -= taken;
        if (state.left === 0) this.#state = { at: "header" };
        return taken;
      }
      case "end":
        // Whatever follows the end mark is padding to the tape's record size.
        return available;
      default:
        return state satisfies never;
    }
  }

  #skip(padding: number): void {
    this.#state = padding === 0 ? { at: "header" } : { at: "padding", left: padding };
  }

  #onHeader(): void {
    const raw = parseHeader(this.#block);
    if (raw === undefined) {
      this.#state = { at: "end" };
      return;
    }
    if (raw.type === "x" || raw.type === "g" || raw.type === "L" || raw.type === "K") {
      this.#startMeta(raw);
      return;
    }
    const sparse = this.#pax?.sparse;
    const entry = this.#assemble(raw);
    if (raw.type === "S") this.#startOldSparse(entry, sparse);
    else if (sparse !== undefined) this.#startSparse(entry, sparse);
    else this.#startData(entry, entry.size, [{ hole: 0, data: entry.size }]);
  }

  /** `stored`: bytes of data that follow. */
  #startData(entry: TarEntry, stored: number, steps: readonly SparseStep[]): void {
    this.#sink.entry(entry);
    this.#nextRun({ at: "data", left: 0, steps, next: 0, padding: paddingOf(stored) });
  }

  #nextRun(state: Extract<State, { at: "data" }>): void {
    this.#state = state;
    while (state.left === 0) {
      const step = state.steps[state.next++];
      if (step === undefined) {
        this.#sink.end();
        this.#skip(state.padding);
        return;
      }
      if (step.hole > 0) this.#sink.hole(step.hole);
      state.left = step.data;
    }
  }

  #startOldSparse(entry: TarEntry, records: SparseRecords | undefined): void {
    if (entry.kind !== "file" || records !== undefined) throw notAFile(entry.name);
    const { size, runs, extended } = readOldGnuSparse(this.#block);
    if (extended) this.#state = { at: "oldSparseMap", entry, size, runs, blocks: 0 };
    else this.#startSparseData(entry, size, runs, entry.size);
  }

  #onOldSparseMap(state: Extract<State, { at: "oldSparseMap" }>): void {
    const { runs, extended } = readOldGnuExtension(this.#block);
    for (const run of runs) state.runs.push(run);
    state.blocks++;
    if (!extended) this.#startSparseData(state.entry, state.size, state.runs, state.entry.size);
    else if (state.blocks * TAR_BLOCK_BYTES >= SPARSE_MAP_BYTES_MAX) throw mapTooLong();
  }

  #startSparse(entry: TarEntry, records: SparseRecords): void {
    if (entry.kind !== "file") throw notAFile(entry.name);
    const sparse = readSparseRecords(records);
    if (sparse.map === "runs") this.#startSparseData(entry, sparse.size, sparse.runs, entry.size);
    else this.#state = { at: "sparseMap", entry, size: sparse.size, map: new SparseMapReader() };
  }

  #onSparseMap({ entry, size, map }: Extract<State, { at: "sparseMap" }>): void {
    const runs = map.push(this.#block);
    const left = entry.size - map.mapBytes;
    if (left < 0) {
      throw new PlatformError("corrupt", "the map of a sparse file is longer than its entry", {
        remedy: "The layer is damaged or was written by a broken tool; push the image again.",
      });
    }
    if (runs !== undefined) this.#startSparseData(entry, size, runs, left);
  }

  /** `entry.size` is what the archive stores; the sink is told the file's own. */
  #startSparseData(entry: TarEntry, size: number, runs: readonly SparseRun[], stored: number): void {
    this.#startData({ ...entry, size }, stored, planSparse(runs, size, stored));
  }

  #startMeta(raw: RawHeader): void {
    if (raw.size < 0 || raw.size > META_BYTES_MAX) {
      throw new PlatformError(
        "corrupt",
        `a tar header extension of ${raw.size} bytes is above ${META_BYTES_MAX}`,
      );
    }
    const state = {
      at: "meta",
      type: raw.type,
      buffer: Buffer.alloc(raw.size),
      filled: 0,
      padding: paddingOf(raw.size),
    } as const;
    this.#state = { ...state };
    if (raw.size === 0) this.#onMeta(state);
  }

  #onMeta(state: { type: string; buffer: Buffer; padding: number }): void {
    if (state.type === "x") this.#pax = parsePax(state.buffer, this.#globalPax);
    else if (state.type === "g") this.#globalPax = globalRecords(parsePax(state.buffer, this.#globalPax));
    else if (state.type === "L") this.#longName = untilNul(state.buffer);
    else this.#longLink = untilNul(state.buffer);
    this.#skip(state.padding);
  }

  #assemble(raw: RawHeader): TarEntry {
    const pax = this.#pax ?? this.#globalPax;
    const name = this.#pax?.sparse?.name ?? this.#pax?.path ?? this.#longName ?? pax?.path ?? raw.name;
    const linkTarget = this.#pax?.linkPath ?? this.#longLink ?? pax?.linkPath ?? raw.linkName;
    this.#pax = undefined;
    this.#longName = undefined;
    this.#longLink = undefined;
    let kind = KINDS[raw.type];
    if (kind === undefined) throw unsupported(`an entry of type ${JSON.stringify(raw.type)}`, name);
    // V7 archives mark directories by the slash alone.
    if (kind === "file" && name.endsWith("/")) kind = "directory";
    const size = pax?.size ?? raw.size;
    if (size < 0) throw new PlatformError("corrupt", "a tar entry has a negative size");
    // Links and directories may state a size without data following (old writers): only files carry data.
    return {
      name,
      kind,
      mode: raw.mode,
      uid: id(pax?.uid ?? raw.uid),
      gid: id(pax?.gid ?? raw.gid),
      size: kind === "file" ? size : 0,
      mtimeSeconds: pax?.mtime?.seconds ?? raw.mtimeSeconds,
      mtimeNanoseconds: pax?.mtime?.nanoseconds ?? 0,
      linkTarget,
      devMajor: raw.devMajor,
      devMinor: raw.devMinor,
      xattrs: pax !== undefined && pax.xattrs.size > 0 ? pax.xattrs : NO_XATTRS,
    };
  }
}

/** Sparse records belong to one entry. */
function globalRecords(records: PaxRecords): PaxRecords {
  if (records.sparse !== undefined)
    throw new PlatformError("corrupt", "a global pax header says that all files are sparse");
  return records;
}

function notAFile(name: string): PlatformError {
  return new PlatformError("corrupt", `the layer holds a sparse entry that is no file: ${printable(name)}`);
}

function paddingOf(size: number): number {
  return (TAR_BLOCK_BYTES - (size % TAR_BLOCK_BYTES)) % TAR_BLOCK_BYTES;
}

function untilNul(buffer: Buffer): string {
  const end = buffer.indexOf(0);
  return buffer.toString("latin1", 0, end === -1 ? buffer.length : end);
}

/** Kernel IDs have 32 bits; -1 means "nobody in particular" in old archives and never names an owner. */
function id(value: number): number {
  if (value < 0 || value >= 0xffff_ffff)
    throw new PlatformError("corrupt", `a tar entry has the owner ${value}`);
  return value;
}

function unsupported(what: string, name: string): PlatformError {
  return new PlatformError("unsupported", `the layer holds ${what}: ${printable(name)}`, {
    remedy:
      "Build the image with a tool that writes plain tar entries (docker, buildkit, buildah, kaniko do).",
  });
}

function printable(name: string): string {
  return JSON.stringify(Buffer.from(name, "latin1").toString("utf8"));
}
