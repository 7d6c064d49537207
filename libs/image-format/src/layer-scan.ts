// One layer, from its uncompressed tar stream to the list of its entries and its chunks. The list is what the archive
// says, whiteouts and duplicates included: the merge decides what they mean.
import { PlatformError } from "@pilotlight/errors";
import { Chunker, type ChunkPlace, type ChunkSink } from "./chunker.ts";
import { normalisePath } from "./path.ts";
import { type TarEntry, type TarEntryKind, TarReader } from "./tar/reader.ts";

/** An entry of a layer. Strings are byte strings; the path is normalised, "" is the root directory. */
export type LayerEntry = {
  path: string;
  kind: TarEntryKind;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSeconds: number;
  mtimeNanoseconds: number;
  /** Symlinks: as it stands. Hard links: a normalised path. */
  linkTarget: string;
  devMajor: number;
  devMinor: number;
  xattrs: ReadonlyMap<string, Buffer>;
  /** Files with content: where it begins. */
  place: ChunkPlace | undefined;
};

export type LayerLimits = {
  entriesMax: number;
  /** Unpacked bytes of file content, holes of sparse files included. */
  contentBytesMax: number;
  /** Bytes of all extended attributes together. */
  xattrBytesMax: number;
};

/** Far above real images (the largest seen have some 400,000 entries), below what would exhaust a converter. */
export const DEFAULT_LAYER_LIMITS: LayerLimits = {
  entriesMax: 2_000_000,
  contentBytesMax: 512 * 2 ** 30,
  xattrBytesMax: 256 << 20,
};

export class LayerScanner {
  readonly #reader: TarReader;
  readonly #chunker: Chunker;
  readonly #limits: LayerLimits;
  readonly entries: LayerEntry[] = [];
  contentBytes = 0;
  #xattrBytes = 0;

  constructor(chunkBytes: number, sink: ChunkSink, limits: LayerLimits = DEFAULT_LAYER_LIMITS) {
    this.#limits = limits;
    this.#chunker = new Chunker(chunkBytes, sink);
    this.#reader = new TarReader({
      entry: (entry) => this.#onEntry(entry),
      data: (piece) => this.#chunker.write(piece),
      hole: (bytes) => this.#chunker.hole(bytes),
      end: () => this.#chunker.endFile(),
    });
  }

  /**
   * Takes the next bytes of the uncompressed layer, until one filled a chunk; returns how many. A few bytes of a sparse file
   * may fill one, so who pushes has to see that the sink can bear another before the rest comes.
   * Throws `corrupt`, `unsupported` or `resourceExhausted`.
   */
  push(bytes: Buffer): number {
    const emitted = this.#chunker.emittedCount;
    let taken = 0;
    while (taken < bytes.length && this.#chunker.emittedCount === emitted)
      taken += this.#reader.push(bytes, taken);
    return taken;
  }

  /** The layer is over; returns how many chunks it has. */
  finish(): number {
    this.#reader.finish();
    this.#chunker.finish();
    return this.#chunker.chunkCount;
  }

  #onEntry(entry: TarEntry): void {
    if (this.entries.length >= this.#limits.entriesMax) throw exceeded("entriesMax", this.#limits);
    this.contentBytes += entry.size;
    if (this.contentBytes > this.#limits.contentBytesMax) throw exceeded("contentBytesMax", this.#limits);
    const path = normalisePath(entry.name);
    checkLink(entry);
    this.entries.push({
      path,
      kind: entry.kind,
      mode: entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      size: entry.size,
      mtimeSeconds: entry.mtimeSeconds,
      mtimeNanoseconds: entry.mtimeNanoseconds,
      linkTarget:
        entry.kind === "hardlink"
          ? normalisePath(entry.linkTarget)
          : entry.kind === "symlink"
            ? entry.linkTarget
            : "",
      devMajor: isDevice(entry.kind) ? entry.devMajor : 0,
      devMinor: isDevice(entry.kind) ? entry.devMinor : 0,
      xattrs: this.#keptXattrs(entry.xattrs),
      place: entry.kind === "file" ? this.#chunker.beginFile(path, entry.size) : undefined,
    });
  }

  /**
   * trusted.* is dropped, as containerd does: a smuggled trusted.overlay.* would be obeyed by an overlay on top of the
   * mount. The order is by name, so that the archive's order does not reach the image's bytes.
   */
  #keptXattrs(xattrs: ReadonlyMap<string, Buffer>): ReadonlyMap<string, Buffer> {
    if (xattrs.size === 0) return xattrs;
    const kept = [...xattrs]
      .filter(([name]) => !name.startsWith("trusted."))
      .sort(([a], [b]) => (a < b ? -1 : 1));
    for (const [name, value] of kept) this.#xattrBytes += name.length + value.length;
    if (this.#xattrBytes > this.#limits.xattrBytesMax) throw exceeded("xattrBytesMax", this.#limits);
    return new Map(kept);
  }
}

function checkLink(entry: TarEntry): void {
  if (entry.kind !== "symlink") return;
  const length = entry.linkTarget.length;
  if (length === 0 || length > 4095 || entry.linkTarget.includes("\0")) {
    throw new PlatformError("corrupt", `the layer has a symbolic link with a target of ${length} bytes`, {
      remedy: "Targets have 1 to 4,095 bytes and no NUL; the layer was written by a broken tool.",
    });
  }
}

function isDevice(kind: TarEntryKind): boolean {
  return kind === "charDevice" || kind === "blockDevice";
}

const LIMITED: Record<keyof LayerLimits, string> = {
  entriesMax: "entries",
  contentBytesMax: "bytes of files",
  xattrBytesMax: "bytes of extended attributes",
};

function exceeded(limit: keyof LayerLimits, limits: LayerLimits): PlatformError {
  return new PlatformError(
    "resourceExhausted",
    `the layer has more than ${limits[limit]} ${LIMITED[limit]}`,
    { field: limit, remedy: `Raise the converter's ${limit} if the image is trusted.` },
  );
}
