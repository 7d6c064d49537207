// Searches: the newest matching lines of journal and segments together, oldest first, and then what comes.
import { readFile } from "node:fs/promises";
import { setImmediate as breathe } from "node:timers/promises";
import { create, fromBinary } from "@bufbuild/protobuf";
import {
  LogBatchSchema,
  LogLevel,
  type LogLine,
  LogLineSchema,
  timestampFromMs,
  timestampMs,
} from "@pilotlight/contracts";
import { PlatformError, type RetryPolicy, retry } from "@pilotlight/errors";
import type { Analyst } from "./adapters/analyst.ts";
import type { Row } from "./adapters/analyst-protocol.ts";
import { LEVEL_NAMES, matches, type Query, sqlOf } from "./domain/query.ts";
import { byKey, byStats, type Segment } from "./domain/segments.ts";
import type { Catalogue } from "./store/catalogue.ts";
import { framesOf, type Journal, type JournalFile } from "./store/journal.ts";

export type SearchPorts = {
  journal: Journal;
  catalogue: Catalogue;
  analyst: Analyst;
  segmentsAtOnce: number;
};

/** A segment or a journal file may go while it is read (merged, expired, flushed): then the plan is made anew. */
const REPLANS: RetryPolicy = { attemptsMax: 5, initialDelayMs: 20, delayMsMax: 200 };

/** A line with what orders it. */
type Found = { at: number; seq: number; line: LogLine };

/**
 * The newest `query.limit` matching lines, oldest first. `onPlan` is called at the instant that the answer is of, again when
 * the plan is made anew. Throws `cancelled` when the signal says so.
 */
export function search(
  query: Query,
  ports: SearchPorts,
  signal: AbortSignal,
  onPlan: () => void = () => {},
): Promise<LogLine[]> {
  return retry(() => searchOnce(query, ports, signal, onPlan), REPLANS, {
    signal,
    shouldRetry: (error) => error.code === "notFound" && !signal.aborted,
  });
}

async function searchOnce(
  query: Query,
  ports: SearchPorts,
  signal: AbortSignal,
  onPlan: () => void,
): Promise<LogLine[]> {
  if (!ports.catalogue.isListed)
    throw new PlatformError("unavailable", "the bucket of the logs was not reached yet", {
      remedy: "Check BUCKET_URI and the bucket; lines are collected meanwhile.",
      retryAfterMs: 1_000,
    });
  // One instant (H2): what is in the journal now, and what is in segments now.
  const files = ports.journal.files.map((file) => ({ ...file }));
  const segments = byKey(ports.catalogue.segments, query);
  onPlan();
  let found = newest(await searchJournal(query, files, signal), query.limit);
  for (const group of groupsOf(segments, ports.segmentsAtOnce)) {
    if (signal.aborted) throw new PlatformError("cancelled", "the search was given up");
    if (found.length >= query.limit && isOlder(group, found)) break;
    const rows = await searchSegments(query, group, ports, signal);
    found = newest([...found, ...rows], query.limit);
  }
  return found.reverse().map(({ line }) => line);
}

async function searchJournal(
  query: Query,
  files: readonly JournalFile[],
  signal: AbortSignal,
): Promise<Found[]> {
  const needle = Buffer.from(query.requestId || query.replicaId);
  let found: Found[] = [];
  let seq = 0;
  for (const file of files) {
    const bytes = await readFile(file.path);
    for (const { payload } of framesOf(bytes.subarray(0, file.bytes))) {
      seq += 1;
      if (needle.length > 0 && !payload.includes(needle)) continue;
      for (const [i, line] of fromBinary(LogBatchSchema, payload).lines.entries()) {
        if (!matches(query, line)) continue;
        const at = line.at === undefined ? 0 : timestampMs(line.at);
        // Later than any segment's: the journal holds what came last.
        found.push({ at, seq: JOURNAL_SEQ + seq * LINES_MAX + i, line });
      }
      if (found.length > query.limit * 2) found = newest(found, query.limit);
      if (seq % FRAMES_AT_ONCE === 0) await breathe();
      if (signal.aborted) throw new PlatformError("cancelled", "the search was given up");
    }
  }
  return found;
}

const JOURNAL_SEQ = 2 ** 52;
/** Of one batch. */
const LINES_MAX = 2 ** 20;
/** Other calls have their turn after so many frames. */
const FRAMES_AT_ONCE = 32;

async function searchSegments(
  query: Query,
  group: readonly Segment[],
  ports: SearchPorts,
  signal: AbortSignal,
): Promise<Found[]> {
  const worthIt: Segment[] = [];
  for (const segment of group)
    if (byStats(await ports.catalogue.stats(segment), query)) worthIt.push(segment);
  if (worthIt.length === 0) return [];
  const files = await Promise.all(worthIt.map((segment) => ports.catalogue.file(segment)));
  const found: Found[] = [];
  const take = (rows: Row[]) => found.push(...rows.map(foundOf));
  await ports.analyst.query(files, sqlOf(query), query.limit, take, signal);
  return found;
}

/** Groups of segments to be asked together, newest first. */
function* groupsOf(segments: readonly Segment[], sizeMax: number): Generator<Segment[]> {
  for (let i = 0; i < segments.length; i += sizeMax) yield segments.slice(i, i + sizeMax);
}

/** Whether everything in the group is older than everything found. */
function isOlder(group: readonly Segment[], found: readonly Found[]): boolean {
  const oldest = found.at(-1)?.at ?? 0;
  return group.every(({ until }) => until <= oldest);
}

const newest = (found: Found[], limit: number): Found[] =>
  found.sort((a, b) => b.at - a.at || b.seq - a.seq).slice(0, limit);

const LEVELS = new Map(LEVEL_NAMES.map((name, level) => [name as string, level as LogLevel]));

function foundOf(row: Row): Found {
  const [
    timeUs,
    seq,
    level,
    _node,
    service,
    component,
    application,
    version,
    deployment,
    replicaId,
    requestId,
  ] = row;
  const [, , , , , , , , , , , traceId, message, fieldsJson] = row;
  const at = Math.floor(timeUs / 1_000);
  const line = create(LogLineSchema, {
    at: timestampFromMs(at),
    level: LEVELS.get(level) ?? LogLevel.UNSPECIFIED,
    service,
    component,
    application,
    version,
    deployment,
    replicaId,
    requestId,
    traceId,
    message,
    fieldsJson,
  });
  return { at, seq, line };
}
