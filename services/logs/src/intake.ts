// The way in: batches become lines of the journal, once each, and are shown to those who follow.
//   K1. A batch is acknowledged (the handler returns) when it stands in the journal.
//   K2. A batch that was taken in already is dropped, after a restart too: the ledger is what the saved one and the
//       journal's frames say together.
//   K3. While the journal is full (the bucket is away) batches wait here, then in the bus, then in the files they came from.
import { readFile, rename, writeFile } from "node:fs/promises";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type LogBatch,
  LogBatchSchema,
  LogLevel,
  type LogLine,
  timestampFromMs,
  timestampMs,
} from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { counter, logger } from "@pilotlight/telemetry";
import { Ledger } from "./domain/ledger.ts";
import { framesOf, type Journal } from "./store/journal.ts";

export type IntakeOptions = {
  journal: Journal;
  /** File of the saved ledger. */
  ledgerFile: string;
  journalBytesMax: number;
  /** Lines claiming to be older get the time at which they came. */
  lineAgeMsMax: number;
};

/** Clocks of nodes differ; a line from further in the future gets the time at which it came. */
const CLOCK_SKEW_MS = 3_600_000;
/** Longer than the bus keeps batches, so that whatever can still come is known. */
const LEDGER_KEEP_MS = 4 * 24 * 3_600_000;
const LEDGER_SOURCES_MAX = 100_000;

const takenLines = counter({ name: "pilotlight_logs_lines_total", help: "Log lines taken in." });
const repeatedBatches = counter({
  name: "pilotlight_logs_repeated_batches_total",
  help: "Batches that had come before.",
});

export type Follower = (lines: readonly LogLine[]) => void;

export class Intake {
  readonly #options: IntakeOptions;
  readonly #ledger = new Ledger();
  readonly #followers = new Set<Follower>();
  #room: (() => void)[] = [];
  #closed = false;

  private constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** Opens the way in with the memory of an earlier process. */
  static async open(options: IntakeOptions): Promise<Intake> {
    const intake = new Intake(options);
    const text = await readFile(options.ledgerFile, "utf8").catch(() => undefined);
    try {
      if (text !== undefined) intake.#ledger.restore(JSON.parse(text));
    } catch (error) {
      logger("intake").error(
        "the saved ledger is not readable: batches of before the last journal may come twice",
        {
          error: toPlatformError(error),
        },
      );
    }
    for (const { path } of options.journal.files) {
      for (const { payload } of framesOf(await readFile(path))) {
        const batch = fromBinary(LogBatchSchema, payload);
        intake.#note(batch, Date.now());
      }
    }
    return intake;
  }

  /** Takes a batch in. `id` is the event's, for batches that do not say where they were read. */
  async take(batch: LogBatch, id: string): Promise<void> {
    const known =
      batch.source === "" ? { ...batch, source: `event ${id}`, offset: 0n, offsetEnd: 1n } : batch;
    if (this.#ledger.has(...placeOf(known))) {
      repeatedBatches.inc();
      return;
    }
    while (this.#options.journal.bytes >= this.#options.journalBytesMax) await this.#roomMade();
    const now = Date.now();
    const lines = known.lines.map((line) => this.#clean(line, now));
    const payload = toBinary(LogBatchSchema, create(LogBatchSchema, { ...known, lines }));
    await this.#options.journal.append(payload, () => {
      this.#note(known, now);
      for (const follower of this.#followers) follower(lines);
    });
    takenLines.inc(lines.length);
  }

  /**
   * Shows every line from the instant on at which the journal has it, so what a search of that instant does not see is shown
   * and nothing else. Gives the way out.
   */
  follow(follower: Follower): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }

  /** The journal has room again. */
  wake(): void {
    for (const go of this.#room.splice(0)) go();
  }

  /** Batches that wait for room go back to the bus. */
  close(): void {
    this.#closed = true;
    this.wake();
  }

  async #roomMade(): Promise<void> {
    if (!this.#closed) await new Promise<void>((resolve) => this.#room.push(resolve));
    if (this.#closed) throw new PlatformError("unavailable", "the log service stops");
  }

  /** Saves what was taken in. Must be done before a journal file is deleted (K2). */
  async saveLedger(): Promise<void> {
    const { ledgerFile } = this.#options;
    this.#ledger.prune(Date.now(), LEDGER_KEEP_MS, LEDGER_SOURCES_MAX);
    await writeFile(`${ledgerFile}.new`, JSON.stringify(this.#ledger));
    await rename(`${ledgerFile}.new`, ledgerFile);
  }

  #note(batch: LogBatch, now: number): void {
    this.#ledger.add(...placeOf(batch), now);
  }

  /** Makes a line fit for keeping: a time within reason, a known level, no NUL characters. */
  #clean(line: LogLine, now: number): LogLine {
    const at = line.at === undefined ? now : timestampMs(line.at);
    const plausible = at >= now - this.#options.lineAgeMsMax && at <= now + CLOCK_SKEW_MS;
    return {
      ...line,
      at: timestampFromMs(plausible ? at : now),
      level: line.level >= LogLevel.DEBUG && line.level <= LogLevel.ERROR ? line.level : LogLevel.INFO,
      message: line.message.replaceAll("\0", ""),
      fieldsJson: line.fieldsJson.replaceAll("\0", ""),
      application: line.application.slice(0, NAME_MAX),
    };
  }
}

/** An application's name becomes part of a key. */
const NAME_MAX = 128;

const placeOf = ({
  nodeId,
  source,
  offset,
  offsetEnd,
}: LogBatch): [source: string, from: number, to: number] => [
  `${nodeId} ${source}`,
  Number(offset),
  Number(offsetEnd),
];
