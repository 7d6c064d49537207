// The segments of one repository as files of one place: created or adopted, written, sealed, removed; what they take is counted
// where the place's limits are kept.
import { randomUUID } from "node:crypto";
import { closeSync, fchownSync, ftruncateSync, openSync, read, renameSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { PlatformError } from "@pilotlight/errors";
import type { Mover } from "@pilotlight/streamer";
import { createMappedFile } from "./mapped-file.ts";
import type { Scratch, Segment, SegmentSet } from "./ports.ts";
import type { WeightFile } from "./repository.ts";
import type { SpareMemory } from "./spare-memory.ts";

const readSome = promisify(read);

/** Where segments lie, and what is used of it. */
export type Place = {
  kind: "memory" | "disk";
  directory: string;
  /** Promised to segments, and of these written so far. */
  bytesUsed: number;
  bytesWritten: number;
};

export const nothing = (): void => undefined;
/** Parts of one file begin on a page: tensors stay aligned as they are in their own file. */
const PAGE_BYTES = 4096;
const wholePages = (bytes: number): number => Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
/** What the files of a repository take in one file. */
export const bytesInOneFile = (weights: readonly Pick<WeightFile, "bytes">[]): number =>
  weights.reduce((sum, { bytes }) => sum + wholePages(bytes), 0);

/** Segments of one place, in files of their own or in one that was made ready. */
export class FileSet implements SegmentSet {
  readonly segments: Segment[] = [];
  readonly #place: Place;
  readonly #readerGroupId: number | undefined;
  readonly #onRoom: () => void;
  bytes = 0;
  #written = 0;
  #open = 0;
  #removed = false;

  /** `onRoom` is told when everything was written, and when the segments are gone. */
  constructor(place: Place, readerGroupId: number | undefined, onRoom: () => void) {
    this.#place = place;
    this.#readerGroupId = readerGroupId;
    this.#onRoom = onRoom;
  }

  /** A segment in a file of its own, mapped where there is a mapper. */
  add(path: string, bytes: number, mapper: Pick<Mover, "map"> | undefined): void {
    // Nothing can be mapped of an empty file.
    const { descriptor, memory, close } =
      mapper === undefined || bytes === 0
        ? this.#createFile(path, bytes)
        : createMappedFile({ path, bytes, readerGroupId: this.#readerGroupId, mover: mapper });
    this.#push({ path, base: 0, bytes, descriptor, memory }, 1, close);
    this.#hold(bytes, 0);
  }

  #createFile(path: string, bytes: number) {
    const descriptor = openSync(path, "wx", 0o640);
    const close = (): void => closeSync(descriptor);
    try {
      if (this.#readerGroupId !== undefined)
        fchownSync(descriptor, process.getuid?.() ?? 0, this.#readerGroupId);
      ftruncateSync(descriptor, bytes);
    } catch (error) {
      close();
      rmSync(path, { force: true });
      throw error;
    }
    return { descriptor, memory: undefined, close };
  }

  /** Segments for all of the weights in one file, whose pages are ready as far as the spare memory reaches. */
  adopt(path: string, spare: SpareMemory, weights: readonly Pick<WeightFile, "bytes">[]): void {
    const total = bytesInOneFile(weights);
    const { descriptor, memory } = spare;
    ftruncateSync(descriptor, total);
    renameSync(spare.path, path);
    let open = weights.length;
    const close = (): void => {
      open -= 1;
      if (open === 0) spare.close();
    };
    const ready = Math.min(total, spare.bytesReady);
    this.#hold(total, ready);
    let base = 0;
    for (const { bytes } of weights) {
      this.#push({ path, base, bytes, descriptor, memory }, total === 0 ? 0 : 1 - ready / total, close);
      base += wholePages(bytes);
    }
  }

  #hold(bytes: number, written: number): void {
    this.bytes += bytes;
    this.#place.bytesUsed += bytes;
    this.#fill(written);
  }

  #fill(bytes: number): void {
    this.#written += bytes;
    this.#place.bytesWritten += bytes;
  }

  /** `newShare`: of what is written to it, so much takes pages that were not there before. */
  #push(
    segment: Pick<Segment, "path" | "base" | "bytes" | "memory"> & { descriptor: number },
    newShare: number,
    close: () => void,
  ): void {
    const { base, descriptor } = segment;
    let open = true;
    this.#open += 1;
    const seal = (): void => {
      if (!open) return;
      open = false;
      close();
      this.#open -= 1;
      if (this.#open === 0) this.#onRoom();
    };
    const filled = (count: number): void => this.#fill(count * newShare);
    const write = (data: Uint8Array, at: number): void => {
      writeFully(descriptor, data, base + at);
      filled(data.byteLength);
    };
    this.segments.push({ ...segment, place: this.#place.kind, write, filled, seal });
  }

  /** Its name goes at once: nothing of it is left behind, whatever happens. */
  scratch(): Scratch {
    const path = join(this.#place.directory, `scratch-${randomUUID()}`);
    const descriptor = openSync(path, "wx+", 0o600);
    rmSync(path);
    const segment: Segment = {
      path,
      base: 0,
      bytes: Number.MAX_SAFE_INTEGER,
      place: this.#place.kind,
      descriptor,
      memory: undefined,
      write: (data, at) => writeFully(descriptor, data, at),
      filled: nothing,
      seal: nothing,
    };
    // Through this process, but not on its only thread: others' ranges arrive meanwhile.
    const copyTo = async (to: Segment, offset: number, length: number): Promise<void> => {
      const bytes = new Uint8Array(length);
      await readFully(descriptor, bytes, offset);
      to.write(bytes, offset);
    };
    return { segment, copyTo, close: () => closeSync(descriptor) };
  }

  /** The names go; whoever has mapped the files keeps them until unmapping. */
  remove(): void {
    if (this.#removed) return;
    this.#removed = true;
    for (const { path, seal } of this.segments) {
      seal();
      rmSync(path, { force: true });
    }
    this.#place.bytesUsed -= this.bytes;
    this.#place.bytesWritten -= this.#written;
    this.#onRoom();
  }
}

function writeFully(descriptor: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.byteLength; ) {
    done += writeSync(descriptor, bytes, done, bytes.byteLength - done, offset + done);
  }
}

async function readFully(descriptor: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesRead } = await readSome(descriptor, bytes, done, bytes.byteLength - done, offset + done);
    if (bytesRead === 0)
      throw new PlatformError("corrupt", "a scratch file is shorter than what was written to it");
    done += bytesRead;
  }
}
