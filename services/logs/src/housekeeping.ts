// What happens to lines after they are in the journal: files of it become segments, segments are merged, old ones deleted.
// One thing at a time, so that nothing here races anything else here; a failure is tried again at the next turn.
//   H1. Segments of a journal file carry its name: making them again after a crash overwrites the same objects.
//   H2. At one instant a line is found in the journal or in a segment, for every search, never in both.
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toPlatformError } from "@pilotlight/errors";
import { gauge, logger } from "@pilotlight/telemetry";
import type { Analyst } from "./adapters/analyst.ts";
import { type MergePolicy, planMerges, planRetention, type Segment, segmentKey } from "./domain/segments.ts";
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

/** How often the journal is looked at. */
const TURN_MS = 1_000;

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
  #upkeepAt = 0;
  #merges = 0;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
  }

  /** Reads what the bucket holds. The first turn follows by itself. */
  async start(): Promise<void> {
    await rm(this.#options.workDirectory, { recursive: true, force: true });
    await mkdir(this.#options.workDirectory, { recursive: true });
    await this.#refresh();
    this.#schedule();
  }

  /** Makes segments of everything that is in the journal now, whatever its size and age. */
  flush(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#options.journal.seal();
      await this.#writeSealed();
    });
  }

  /** Merges and deletes what is due now. */
  upkeep(): Promise<void> {
    return this.#inTurn(() => this.#upkeep());
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#turn;
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const result = this.#turn.then(work);
    this.#turn = result.catch((thrown) => {
      this.#log.error("logs wait: they cannot be brought to the bucket", { error: toPlatformError(thrown) });
    });
    return result;
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      void this.#inTurn(() => this.#regular())
        .catch(() => {})
        .finally(() => this.#schedule());
    }, TURN_MS);
  }

  async #regular(): Promise<void> {
    const { journal, segmentAgeMs, upkeepIntervalMs } = this.#options;
    const active = journal.files.at(-1);
    if (active !== undefined && Date.now() - active.openedAt >= segmentAgeMs) await journal.seal();
    journalBytes.set(journal.bytes);
    await this.#writeSealed();
    if (Date.now() - this.#upkeepAt >= upkeepIntervalMs) {
      this.#upkeepAt = Date.now();
      await this.#upkeep();
    }
  }

  async #writeSealed(): Promise<void> {
    for (const file of this.#options.journal.sealed) await this.#writeFile(file);
  }

  async #writeFile(file: JournalFile): Promise<void> {
    const { analyst, catalogue, journal, intake, workDirectory, writer } = this.#options;
    const name = `${writer}-${file.number}`;
    const written = await analyst.run({
      kind: "write",
      journal: file.path,
      number: file.number,
      prefix: join(workDirectory, `${name}-`),
    });
    const segments: Segment[] = [];
    for (const one of written) {
      segments.push(await catalogue.add(segmentKey(one.hour, one.application, name), one, []));
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
    for (const group of planMerges(catalogue.segments, merge, Date.now())) {
      if (this.#closed) return;
      await this.#merge(group);
    }
  }

  async #merge(group: readonly Segment[]): Promise<void> {
    const { analyst, catalogue, workDirectory, writer } = this.#options;
    const [first] = group;
    if (first === undefined) return;
    const { hour, application } = first;
    const files = await Promise.all(group.map((segment) => catalogue.file(segment)));
    const name = `${writer}-m${Date.now()}${String(this.#merges++ % 1_000).padStart(3, "0")}`;
    const path = join(workDirectory, `${name}.parquet`);
    const [merged] = await analyst.run({ kind: "merge", files, path, hour, application });
    if (merged === undefined) return;
    const segment = await catalogue.add(
      segmentKey(hour, application, name),
      merged,
      group.map(({ key }) => key),
    );
    await rm(path, { force: true });
    catalogue.replace([segment], group);
    await catalogue.delete(group);
    this.#log.info("segments are merged", {
      segments: group.length,
      rows: merged.rows,
      bytes: segment.bytes,
    });
  }

  async #refresh(): Promise<void> {
    const { catalogue, journal, writer } = this.#options;
    const local = new Set(journal.files.map(({ number }) => `${writer}-${number}`));
    await catalogue.refresh((name) => local.has(name));
    segmentCount.set([...catalogue.segments].length);
  }
}
