// The journal: what was taken in and is not in a segment yet, on local disk. A batch is acknowledged when it stands here.
//   J1. Frames are appended whole; a frame that a crash cut is cut off at the next start, and its batch comes again.
//   J2. A file is sealed before it becomes segments, and deleted after all of them are in the bucket.
//   J3. A file's number is never used again: segments in the bucket are named after it.
//   J4. Bytes reach the disk within `syncIntervalMs`; the process may be killed at any time, for a power failure this is
//       the window (the bus itself syncs less often).
//
// Frame: u32le length · u32le CRC-32 of the payload · payload (LogBatch, binary protobuf).

import type { FileHandle } from "node:fs/promises";
import { mkdir, open, readdir, readFile, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";

const HEADER_BYTES = 8;
const FRAME_BYTES_MAX = 64 * 1024 * 1024;
const SUFFIX = ".journal";
/** Holds the number of the next file (J3): the files that had the last ones may be gone. */
const NEXT_FILE = "next";
const NUMBER_DIGITS = 10;

/** One file of the journal. */
export type JournalFile = { number: number; path: string; bytes: number; openedAt: number };

export type JournalLimits = {
  /** A file is sealed at this size. */
  fileBytes: number;
  syncIntervalMs: number;
};

export class Journal {
  readonly #directory: string;
  readonly #limits: JournalLimits;
  #sealed: JournalFile[] = [];
  #active: (JournalFile & { handle: FileHandle }) | undefined;
  #next = 1;
  #syncTimer: NodeJS.Timeout | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(directory: string, limits: JournalLimits) {
    this.#directory = directory;
    this.#limits = limits;
  }

  /** Opens the journal; every file of an earlier process is sealed. */
  static async open(directory: string, limits: JournalLimits): Promise<Journal> {
    await mkdir(directory, { recursive: true });
    const journal = new Journal(directory, limits);
    const next = await readFile(join(directory, NEXT_FILE), "utf8").catch(() => "1");
    if (/^\d+$/.test(next)) journal.#next = Number(next);
    for (const name of (await readdir(directory)).sort()) {
      if (!name.endsWith(SUFFIX)) continue;
      const path = join(directory, name);
      const { length } = await repair(path);
      const number = Number.parseInt(name, 10);
      journal.#next = Math.max(journal.#next, number + 1);
      if (length === 0) await rm(path);
      else journal.#sealed.push({ number, path, bytes: length, openedAt: (await stat(path)).birthtimeMs });
    }
    return journal;
  }

  /** Files in the order of their lines, the one that is written last. */
  get files(): readonly JournalFile[] {
    return this.#active === undefined ? this.#sealed : [...this.#sealed, this.#active];
  }

  get sealed(): readonly JournalFile[] {
    return this.#sealed;
  }

  get bytes(): number {
    return this.files.reduce((sum, file) => sum + file.bytes, 0);
  }

  /**
   * Appends one batch. Resolves when it would survive the process. `onAppended` is called at the instant from which on
   * `files` has it.
   */
  append(payload: Uint8Array, onAppended: () => void): Promise<void> {
    return this.#inTurn(() => this.#append(payload, onAppended));
  }

  async #append(payload: Uint8Array, onAppended: () => void): Promise<void> {
    this.#active ??= await this.#begin();
    const file = this.#active;
    const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
    frame.writeUInt32LE(payload.length, 0);
    frame.writeUInt32LE(crc32(payload), 4);
    frame.set(payload, HEADER_BYTES);
    try {
      await file.handle.appendFile(frame);
    } catch (error) {
      await file.handle.truncate(file.bytes).catch(() => {}); // no half frame before the next one
      throw error;
    }
    file.bytes += frame.length;
    onAppended();
    if (file.bytes >= this.#limits.fileBytes) await this.#seal();
    this.#syncTimer ??= setTimeout(() => void this.#sync(), this.#limits.syncIntervalMs);
  }

  /** The active file takes no more lines; does nothing when it is empty. */
  seal(): Promise<void> {
    return this.#inTurn(() => this.#seal());
  }

  async #seal(): Promise<void> {
    const file = this.#active;
    if (file === undefined) return;
    this.#active = undefined;
    const { handle, ...plain } = file;
    this.#sealed = [...this.#sealed, plain];
    await handle.datasync();
    await handle.close();
  }

  /** A sealed file's lines are elsewhere now. It is out of `files` before this returns. */
  remove(file: JournalFile): Promise<void> {
    this.#sealed = this.#sealed.filter(({ number }) => number !== file.number);
    return rm(file.path, { force: true });
  }

  async close(): Promise<void> {
    clearTimeout(this.#syncTimer);
    await this.seal();
  }

  /** One after the other: a file is never closed under an append. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => {});
    return result;
  }

  async #begin(): Promise<JournalFile & { handle: FileHandle }> {
    const number = this.#next++;
    const next = join(this.#directory, NEXT_FILE);
    await writeFile(`${next}.new`, String(this.#next));
    await rename(`${next}.new`, next);
    const path = join(this.#directory, `${String(number).padStart(NUMBER_DIGITS, "0")}${SUFFIX}`);
    return { number, path, bytes: 0, openedAt: Date.now(), handle: await open(path, "a") };
  }

  async #sync(): Promise<void> {
    this.#syncTimer = undefined;
    await this.#active?.handle.datasync().catch((error) => {
      logger("journal").warn("the journal cannot be synced", { error: toPlatformError(error) });
    });
  }
}

/** The payloads of the frames in `bytes`, and where the last whole frame ends. */
export function* framesOf(bytes: Buffer): Generator<{ payload: Buffer; end: number }> {
  let at = 0;
  while (at + HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    const end = at + HEADER_BYTES + length;
    if (length > FRAME_BYTES_MAX || end > bytes.length) return;
    const payload = bytes.subarray(at + HEADER_BYTES, end);
    if (crc32(payload) !== bytes.readUInt32LE(at + 4)) return;
    yield { payload, end };
    at = end;
  }
}

/** Cuts off what a crash left behind the last whole frame (J1). */
async function repair(path: string): Promise<{ length: number }> {
  const bytes = await readFile(path);
  let length = 0;
  for (const { end } of framesOf(bytes)) length = end;
  if (length < bytes.length) {
    logger("journal").warn("a frame that was cut is dropped; its batch comes again", {
      path,
      bytes: bytes.length - length,
    });
    await truncate(path, length);
  }
  return { length };
}
