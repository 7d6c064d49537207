// Shared memory that is ready before anybody asks: a file whose pages are allocated and mapped while the node is idle. A load
// that takes it receives bytes straight into place; without it every page is allocated in the middle of the load, which costs
// more than its bytes do. What was taken is used once, for one repository, and never given back: an engine may map it for as
// long as it likes.
import { join } from "node:path";
import { toPlatformError } from "@pilotlight/errors";
import type { Mover } from "@pilotlight/streamer";
import { createMappedFile, type MappedFile } from "./mapped-file.ts";

export type SpareSource = {
  /** Made ready for the next load: as much as the weights that are usually loaded. */
  bytes: number;
  /** How long after a load the next memory is made ready: until then the engine that got its weights has the processors. */
  delayMs: number;
  mover: Pick<Mover, "map">;
  /** Told when memory is ready; and when none can be made so: loads work without, only slower. */
  onReady: (bytes: number) => void;
  onFailure: (reason: string) => void;
};

/** Taken. */
export type SpareMemory = MappedFile & {
  /** From the beginning. */
  bytesReady: number;
};

/** Taking it for less would waste most of it. */
const USE_SHARE_MIN = 1 / 16;

export class SpareShelf {
  readonly #options: SpareSource & { directory: string; readerGroupId: number | undefined };
  #spare: MappedFile | undefined;
  #bytesReady = 0;
  #names = 0;
  #closed = false;

  constructor(options: SpareSource & { directory: string; readerGroupId: number | undefined }) {
    this.#options = options;
  }

  get bytesWanted(): number {
    return this.#options.bytes;
  }

  get delayMs(): number {
    return this.#options.delayMs;
  }

  /** Held, ready or becoming so. */
  get bytes(): number {
    return this.#spare === undefined ? 0 : this.#options.bytes;
  }

  /** Of these, known to be ready. */
  get bytesReady(): number {
    return this.#bytesReady;
  }

  /** Begins to make memory ready in the background, unless there is some. `onReady` is told once how much became ready. */
  prepare(onReady: (bytes: number) => void): void {
    if (this.#spare !== undefined || this.#closed) return;
    const { onFailure } = this.#options;
    let spare: MappedFile;
    try {
      spare = this.#create();
    } catch (error) {
      onFailure(toPlatformError(error).message);
      return;
    }
    this.#spare = spare;
    const ended = (failure?: unknown): void => {
      // Taken or discarded meanwhile: whatever happened to it then is nobody's concern.
      if (this.#spare !== spare) return;
      this.#bytesReady = spare.memory.settle();
      onReady(this.#bytesReady);
      if (failure === undefined) this.#options.onReady(this.#bytesReady);
      else onFailure(toPlatformError(failure).message);
    };
    spare.memory.populate().then(() => ended(), ended);
  }

  /** Gives the memory to a load of this size, as far as it is ready by now. Undefined: there is none, or it is far too much. */
  take(bytes: number): SpareMemory | undefined {
    const spare = this.#spare;
    if (spare === undefined || bytes < this.#options.bytes * USE_SHARE_MIN) return undefined;
    this.#spare = undefined;
    this.#bytesReady = 0;
    return { ...spare, bytesReady: spare.memory.settle() };
  }

  discard(): void {
    this.#spare?.discard();
    this.#spare = undefined;
    this.#bytesReady = 0;
  }

  close(): void {
    this.#closed = true;
    this.discard();
  }

  #create(): MappedFile {
    const { directory, bytes, readerGroupId, mover } = this.#options;
    return createMappedFile({ path: join(directory, `spare-${++this.#names}`), bytes, readerGroupId, mover });
  }
}
