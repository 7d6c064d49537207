// What the domain needs from outside: places for bytes, and somebody who moves bytes into them.
import type { ObjectStore } from "@pilotlight/object-store";
import type { MappedMemory } from "@pilotlight/streamer";
import type { BlockChecksums } from "./checksums.ts";
import type { Repository } from "./repository.ts";

/** A file of shared memory or disk, or a part of one, that holds one weights file byte for byte. */
export type Segment = {
  path: string;
  /** Where in the file at `path` the weights file begins; on a page. */
  base: number;
  /** Of the weights file. */
  bytes: number;
  /** Where the bytes are: counted against the memory limit, on disk, or the source's own file under another name. */
  place: "memory" | "disk" | "source";
  /** Open for writing until it is sealed; undefined where nothing is to be written. */
  descriptor: number | undefined;
  /** The file at `path` where its pages were made ready, if they were. */
  memory: MappedMemory | undefined;
  /** Writes bytes at an offset of the weights file. */
  write(bytes: Uint8Array, offset: number): void;
  /** Tells that this many bytes were written through the descriptor. */
  filled(bytes: number): void;
  /** Opened segments hold a file descriptor until they are sealed. */
  seal(): void;
};

/** All segments of one repository; removed together. */
export type SegmentSet = {
  segments: Segment[];
  bytes: number;
  /** A place for bytes that may be thrown away; undefined where nothing is written. */
  scratch(): Scratch | undefined;
  remove(): void;
};

/** A nameless file beside the segments. */
export type Scratch = {
  segment: Segment;
  /** Copies what was written at an offset to the same offset of a segment. */
  copyTo(segment: Segment, offset: number, length: number): Promise<void>;
  close(): void;
};

/** Makes room and files for a repository. */
export type SegmentMaker = {
  /**
   * Segments for the repository's files. Where room is short, `evict` is called for the oldest unpinned weights of a
   * place until it returns false. Throws resourceExhausted when they fit nowhere.
   */
  create(
    repository: Pick<Repository, "weights" | "bytesTotal">,
    /** Where files may be mapped where they lie; undefined: their bytes will be others. */
    store: ObjectStore | undefined,
    evict: (place: "memory" | "disk") => boolean,
  ): Promise<SegmentSet>;
  /**
   * A copy of complete segments on disk, so that their memory can be given away. Undefined when there is no room for it even
   * after evicting from disk, or nothing of it lies in memory.
   */
  copyToDisk(set: SegmentSet, evict: () => boolean, signal: AbortSignal): Promise<SegmentSet | undefined>;
  /** Bytes held and allowed in shared memory. What is only ready for the next load is not held. */
  usage(): { bytesUsed: number; bytesMax: number };
  /** Every place: what is held there, what is only ready for the next load, what is allowed. */
  places(): PlaceUsage[];
};

export type PlaceUsage = {
  place: "memory" | "disk";
  bytesUsed: number;
  bytesReady: number;
  bytesMax: number;
};

/** What one range is. */
export type RangeRequest = {
  key: string;
  etag: string;
  /** Of the whole object. */
  size: number;
  offset: number;
  length: number;
  /** Present when the file's digest is known. Ranges then begin on a block. */
  checksums: BlockChecksums | undefined;
};

/** Moves one range of an object into a segment, checked; rejects with a PlatformError. */
export type RangeReader = (
  store: ObjectStore,
  request: RangeRequest,
  segment: Segment,
  signal: AbortSignal,
) => Promise<void>;
