// How far a conversion is, and how long it will still take.
export type ConvertProgress = {
  phase: "resolving" | "layers" | "assembling" | "done";
  /** Empty until the reference was resolved. */
  manifestDigest: string;
  layersDone: number;
  layersTotal: number;
  /** Compressed bytes read, of all that have to be read. */
  doneBytes: number;
  totalBytes: number;
  unpackedBytes: number;
  uploadedBytes: number;
  /** Content (uncompressed) that the bucket had already. */
  reusedBytes: number;
  /** Of compressed input; 0 until there is something to tell. */
  bytesPerSecond: number;
  remainingMs: number | undefined;
};

/** Reports are at least this far apart, but for changes of phase. */
const REPORT_INTERVAL_MS = 250;

export class ProgressMeter {
  readonly #report: (progress: ConvertProgress) => void;
  readonly #now: () => number;
  readonly #startedAt: number;
  #reportedAt = Number.NEGATIVE_INFINITY;
  #state: Omit<ConvertProgress, "bytesPerSecond" | "remainingMs"> = {
    phase: "resolving",
    manifestDigest: "",
    layersDone: 0,
    layersTotal: 0,
    doneBytes: 0,
    totalBytes: 0,
    unpackedBytes: 0,
    uploadedBytes: 0,
    reusedBytes: 0,
  };

  constructor(report: (progress: ConvertProgress) => void, now: () => number) {
    this.#report = report;
    this.#now = now;
    this.#startedAt = now();
  }

  get uploadedBytes(): number {
    return this.#state.uploadedBytes;
  }

  get reusedBytes(): number {
    return this.#state.reusedBytes;
  }

  phase(phase: ConvertProgress["phase"]): void {
    this.#state.phase = phase;
    this.#tell(true);
  }

  resolved(manifestDigest: string): void {
    this.#state.manifestDigest = manifestDigest;
  }

  expect(layersTotal: number, totalBytes: number): void {
    Object.assign(this.#state, { layersTotal, totalBytes });
  }

  read(bytes: number): void {
    this.#state.doneBytes += bytes;
    this.#tell(false);
  }

  unpacked(bytes: number): void {
    this.#state.unpackedBytes += bytes;
  }

  reused(bytes: number): void {
    this.#state.reusedBytes += bytes;
  }

  uploaded(bytes: number, stored: boolean): void {
    if (stored) this.#state.uploadedBytes += bytes;
  }

  layerDone(): void {
    this.#state.layersDone++;
    this.#tell(true);
  }

  #tell(always: boolean): void {
    const now = this.#now();
    if (!always && now - this.#reportedAt < REPORT_INTERVAL_MS) return;
    this.#reportedAt = now;
    const seconds = (now - this.#startedAt) / 1000;
    const bytesPerSecond = seconds > 0 ? this.#state.doneBytes / seconds : 0;
    const left = this.#state.totalBytes - this.#state.doneBytes;
    const remainingMs = bytesPerSecond > 0 ? Math.round((left / bytesPerSecond) * 1000) : undefined;
    this.#report({ ...this.#state, bytesPerSecond, remainingMs });
  }
}
