// What happens to lines after they are in the journal: files of it become segments, segments are merged, old ones deleted.
// One thing at a time, so that nothing here races anything else here; a failure is tried again at the next turn.
//   H1. Segments of a journal file carry its name: making them again after a crash overwrites the same objects.
//   H2. At one instant a line is found in the journal or in a segment, for every search, never in both.
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backoffMs, toPlatformError } from "@pilotlight/errors";
import { gauge, logger } from "@pilotlight/telemetry";
import type { Analyst } from "./adapters/analyst.ts";
import {
  hourFrom,
  type Merge,
  type MergePolicy,
  planMerges,
  planRetention,
  type Segment,
  segmentKey,
} from "./domain/segments.ts";
import type { Intake } from "./intake.ts";
import type { Catalogue } from "./store/catalogue.ts";
import type { Journal, JournalFile } from "./store/journal.ts";

export type HousekeepingOptions = {
  journal: Journal;
  intake: Intake;
  catalogue: Catalogue;
  analyst: Analyst;
  /** Files on their way to the bucket; emptied at start. */
  workDirectory: string;
  /** This process' name in keys, unique for ever. */
  writer: string;
  /** A journal file is sealed at this age, if not before for its size. */
  segmentAgeMs: number;
  merge: MergePolicy;
  retention: { keepMs: number; bytesMax: number };
  /** How often to look for segments to merge or delete. */
  upkeepIntervalMs: number;
};

/** How often the journal is looked at, and how often at least while the bucket is away. */
const TURN_MS = 1_000;
const PATIENCE = { attemptsMax: 1, initialDelayMs: 1_000, delayMsMax: 15_000 };

const journalBytes = gauge({
  name: "pilotlight_logs_journal_bytes",
  help: "Lines that are not in a segment yet.",
});
const segmentCount = gauge({ name: "pilotlight_logs_segments", help: "Segments in the bucket." });

/** The name that this process' state folder has in keys of the bucket; made once. */
export async function writerName(file: string): Promise<string> {
  const known = await readFile(file, "utf8").catch(() => "");
  if (/^[a-f0-9]{12}$/.test(known)) return known;
  const made = randomUUID().replaceAll("-", "").slice(0, 12);
  await writeFile(file, made);
  return made;
}

export class Housekeeping {
  readonly #options: HousekeepingOptions;
  readonly #log = logger("housekeeping");
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> = Promise.resolve();
  #closed = false;
  #failures = 0;
  #upkeepAt = Date.now();
  #merges = 0;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
  }

  /** Takes the first turn, which reads what the bucket holds; while the bucket is away, lines are taken in all the same. */
  async start(): Promise<void> {
    await rm(this.#options.workDirectory, { recursive: true, force: true });
    await mkdir(this.#options.workDirectory, { recursive: true });
    this.#turn = this.#takeTurn();
    await this.#turn;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#turn;
  }

  async #takeTurn(): Promise<void> {
    try {
      await this.#work();
      this.#failures = 0;
    } catch (thrown) {
      this.#failures++;
      this.#log.error("lines wait on this machine: the bucket cannot be used", {
        error: toPlatformError(thrown),
      });
    }
    if (this.#closed) return;
    const delayMs = this.#failures === 0 ? TURN_MS : backoffMs(PATIENCE, this.#failures, Math.random());
    this.#timer = setTimeout(() => {
      this.#turn = this.#takeTurn();
    }, delayMs);
  }

  async #work(): Promise<void> {
    const { catalogue, journal, segmentAgeMs, upkeepIntervalMs } = this.#options;
    const active = journal.files.at(-1);
    if (active !== undefined && Date.now() - active.openedAt >= segmentAgeMs) await journal.seal();
    journalBytes.set(journal.bytes);
    if (!catalogue.isListed) await this.#refresh();
    await this.#writeSealed();
    if (Date.now() - this.#upkeepAt < upkeepIntervalMs) return;
    this.#upkeepAt = Date.now();
    await this.#upkeep();
  }

  /** A file that cannot be brought away does not hold up the others. */
  async #writeSealed(): Promise<void> {
    const failures: unknown[] = [];
    for (const file of this.#options.journal.sealed) {
      if (this.#closed) return;
      await this.#writeFile(file).catch((error) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  async #writeFile(file: JournalFile): Promise<void> {
    const { analyst, catalogue, journal, intake, workDirectory, writer } = this.#options;
    const name = `${writer}-${file.number}`;
    const written = await analyst.write(file.path, file.number, join(workDirectory, `${name}-`));
    const segments: Segment[] = [];
    for (const one of written) {
      segments.push(
        await catalogue.add(segmentKey(hourFrom(one.hour), one.application, name), one.path, one, []),
      );
      await rm(one.path, { force: true });
    }
    await intake.saveLedger();
    catalogue.replace(segments, []); // H2: this and the next line's first effect are one instant
    await journal.remove(file);
    intake.wake();
    const rows = written.reduce((sum, one) => sum + one.rows, 0);
    this.#log.info("lines are in the bucket", { segments: segments.length, rows, journalBytes: file.bytes });
  }

  async #upkeep(): Promise<void> {
    const { catalogue, merge, retention } = this.#options;
    await this.#refresh();
    const expired = planRetention(catalogue.segments, retention, Date.now());
    if (expired.length > 0) {
      await catalogue.delete(expired);
      this.#log.info("old segments are deleted", { segments: expired.length });
    }
    for (const plan of planMerges(catalogue.segments, merge, Date.now())) {
      if (this.#closed) return;
      await this.#merge(plan);
    }
  }

  async #merge({ segments: old, application, ...span }: Merge): Promise<void> {
    const { analyst, catalogue, workDirectory, writer } = this.#options;
    const files = await Promise.all(old.map((segment) => catalogue.file(segment)));
    const name = `${writer}-m${Date.now()}${String(this.#merges++ % 1_000).padStart(3, "0")}`;
    const path = join(workDirectory, `${name}.parquet`);
    const merged = await analyst.merge(files, path);
    const replaced = old.map(({ key }) => key);
    const segment = await catalogue.add(segmentKey(span, application, name), path, merged, replaced);
    await rm(path, { force: true });
    catalogue.replace([segment], old);
    await catalogue.delete(old);
    this.#log.info("segments are merged", { segments: old.length, rows: merged.rows, bytes: segment.bytes });
  }

  async #refresh(): Promise<void> {
    const { catalogue, journal, writer } = this.#options;
    const local = new Set(journal.files.map(({ number }) => `${writer}-${number}`));
    await catalogue.refresh((name) => local.has(name));
    segmentCount.set([...catalogue.segments].length);
  }
}
