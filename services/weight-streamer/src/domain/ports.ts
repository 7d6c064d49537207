// What the domain needs from outside: places for bytes, and somebody who moves bytes into them.
import type { ObjectStore } from "@pilotlight/object-store";
import type { BlockChecksums } from "./checksums.ts";

/** A file of shared memory or disk that holds one weights file, byte for byte. */
export type Segment = {
  path: string;
  /** Where the bytes are: counted against the memory limit, on disk, or the source's own file under another name. */
  place: "memory" | "disk" | "source";
  /** Open for writing until it is sealed; undefined where nothing is to be written. */
  descriptor: number | undefined;
  /** Writes bytes at an offset. */
  write(bytes: Uint8Array, offset: number): void;
  /** Tells that this many bytes were written through the descriptor. */
  filled(bytes: number): void;
  /** Opened segments hold a file descriptor until they are sealed. */
  seal(): void;
};

/** All segments of one repository; removed together. */
export type SegmentSet = { segments: Segment[]; bytes: number; remove(): void };

/** What one range is. */
export type RangeRequest = {
  key: string;
  etag: string;
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
