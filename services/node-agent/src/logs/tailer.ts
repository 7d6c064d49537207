// Ships every log file of the node: looks at the files a few times a second, sends what is new in batches, and lets go of
// what was sent. The files are the buffer: while the bus is away nothing is read ahead.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { backoffMs, toPlatformError } from "@pilotlight/errors";
import { counter, logger } from "@pilotlight/telemetry";
import { type LogLineInit, type LogOrigin, parseRecord } from "./log-line.ts";
import type { Positions } from "./positions.ts";
import { type FileBatch, type FileLimits, TailedFile } from "./tailed-file.ts";

/** A file to follow. */
export type LogSource = {
  /** Unique on the node for ever. */
  name: string;
  path: string;
  origin: LogOrigin;
  /** Nobody writes to it any more. */
  over: boolean;
  /** It is ours: what was shipped may be freed on disk. */
  owned: boolean;
};

/** Lines on their way. */
export type OutgoingBatch = { source: string; offset: number; offsetEnd: number; lines: LogLineInit[] };

export type TailerOptions = {
  positions: Positions;
  limits: FileLimits;
  pollIntervalMs: number;
  /** How much of a shipped file that is ours stays on disk. */
  keepBytes: number;
  sources: () => readonly LogSource[];
  /** Sends a batch; resolves when it is kept. The same batch may be sent again after a crash. */
  send: (batch: OutgoingBatch) => Promise<void>;
  /** A file that is over was shipped to its end. Its position is kept: only who deletes the file may forget it. */
  onDone: (source: LogSource) => void;
};

/** Batches of one file before the next file has its turn. */
const BATCHES_PER_TURN = 8;
const FILES_AT_ONCE = 4;
const PATIENCE = { attemptsMax: 1, initialDelayMs: 200, delayMsMax: 5_000 };
/** The first block is kept: its digest tells files apart. */
const HOLE_START = 4_096;
const HOLE_BYTES_MIN = 1024 * 1024;

const shippedLines = counter({ name: "pilotlight_node_log_lines_total", help: "Log lines shipped." });
const droppedBytes = counter({
  name: "pilotlight_node_log_dropped_bytes_total",
  help: "Bytes of log files given up because they could not be shipped.",
});

type Followed = { file: TailedFile; punchedTo: number };

export class LogTailer {
  readonly #options: TailerOptions;
  readonly #files = new Map<string, Followed>();
  readonly #log = logger("tailer");
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #failures = 0;
  #closed = false;
  #canPunch = true;

  constructor(options: TailerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#next(0);
  }

  /** Ships what is there now, within `timeoutMs`, then closes the files. */
  async close(timeoutMs: number): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#round;
    const deadline = Date.now() + timeoutMs;
    while (this.#failures === 0 && Date.now() < deadline && (await this.#shipAll(true))) {}
    for (const { file } of this.#files.values()) file.close();
  }

  #next(delayMs: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#shipAll(false).then((more) => {
        const failed = this.#failures > 0 ? backoffMs(PATIENCE, this.#failures, Math.random()) : 0;
        this.#next(Math.max(failed, more ? 0 : this.#options.pollIntervalMs));
      });
    }, delayMs);
  }

  /** One turn of every file. True when some file has more. */
  async #shipAll(last: boolean): Promise<boolean> {
    const sources = this.#options.sources();
    this.#dropVanished(sources);
    const queue = sources.values();
    let more = false;
    const work = async () => {
      for (const source of queue) if (await this.#shipTurn(source, last)) more = true;
    };
    await Promise.all(Array.from({ length: FILES_AT_ONCE }, work));
    return more && this.#failures === 0;
  }

  async #shipTurn(source: LogSource, last: boolean): Promise<boolean> {
    const followed = this.#follow(source);
    const { file } = followed;
    try {
      for (let turn = 0; turn < BATCHES_PER_TURN; turn++) {
        const batch = file.next(source.over || last);
        if (batch === undefined) break;
        await this.#send(source, batch);
        file.taken(batch);
        this.#failures = 0;
        if (turn === BATCHES_PER_TURN - 1) return true;
      }
    } catch (thrown) {
      this.#failures++;
      this.#log.warn("log lines cannot be sent; they wait in their file", {
        source: source.name,
        error: toPlatformError(thrown),
      });
    }
    await this.#free(source, followed);
    if (source.over && file.isDone()) {
      file.close();
      this.#files.delete(source.name);
      this.#options.onDone(source);
    }
    return false;
  }

  async #send(source: LogSource, batch: FileBatch): Promise<void> {
    const now = Date.now();
    const lines = batch.records.flatMap((record) => parseRecord(record, source.origin, now) ?? []);
    if (lines.length > 0) {
      const { offset, end: offsetEnd } = batch;
      await this.#options.send({ source: `${source.name}#${batch.life}`, offset, offsetEnd, lines });
    }
    shippedLines.inc(lines.length);
  }

  #follow(source: LogSource): Followed {
    const known = this.#files.get(source.name);
    if (known !== undefined) return known;
    const { positions, limits } = this.#options;
    const followed = {
      file: new TailedFile(source.name, source.path, positions, limits),
      punchedTo: HOLE_START,
    };
    this.#files.set(source.name, followed);
    return followed;
  }

  #dropVanished(sources: readonly LogSource[]): void {
    const present = new Set(sources.map(({ name }) => name));
    for (const [name, { file }] of this.#files) {
      if (present.has(name)) continue;
      file.close();
      this.#files.delete(name);
    }
  }

  /** Bounds what a file of ours takes on disk: shipped bytes become a hole, which moves no offset and races no writer. */
  async #free(source: LogSource, followed: Followed): Promise<void> {
    const dropped = followed.file.dropBacklog();
    if (dropped !== undefined) {
      const bytes = dropped.to - dropped.from;
      droppedBytes.inc(bytes);
      this.#log.error("log lines were given up: too many wait to be shipped", { source: source.name, bytes });
      if (source.owned) await this.#punch(source.path, Math.max(HOLE_START, dropped.from), dropped.to);
    }
    const to = followed.file.shipped - this.#options.keepBytes;
    if (!source.owned || to - followed.punchedTo < HOLE_BYTES_MIN) return;
    await this.#punch(source.path, followed.punchedTo, to);
    followed.punchedTo = to;
  }

  async #punch(path: string, from: number, to: number): Promise<void> {
    if (!this.#canPunch) return;
    try {
      await promisify(execFile)("fallocate", [
        "--punch-hole",
        "--offset",
        `${from}`,
        "--length",
        `${to - from}`,
        path,
      ]);
    } catch (thrown) {
      this.#canPunch = false;
      this.#log.warn(
        "shipped log lines cannot be freed on disk here; files keep their size until their replica is gone",
        {
          path,
          error: toPlatformError(thrown),
        },
      );
    }
  }
}
