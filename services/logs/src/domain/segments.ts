// Segments: immutable Parquet objects with the lines of one application and one hour or day (UTC). What their keys say, what
// is known of them, which of them a search must read, which are worth merging, which are too old. Pure.
//
//   logs/v1/hour=2026-11-21T10/app=chat/<writer>-<journal>.parquet     one journal file's lines
//   logs/v1/hour=2026-11-21T10/app=chat/<writer>-m<number>.parquet     those of an hour, merged
//   logs/v1/day=2026-11-21/app=chat/<writer>-m<number>.parquet         those of a day, merged
//   ….stats beside each: SegmentStats as JSON, written first
import * as z from "zod";
import { Bloom } from "./bloom.ts";
import type { Query } from "./query.ts";

export const SEGMENTS_PREFIX = "logs/v1/";
const SEGMENT_SUFFIX = ".parquet";
const STATS_SUFFIX = ".stats";
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** The partition of lines that belong to no application; no application's name begins so. */
const NO_APPLICATION = "_none";

/** What stands beside a segment, so that a search can pass it by without opening it. */
export const segmentStats = z.object({
  format: z.literal(1),
  rows: z.int(),
  /** Epoch ms of the oldest and newest line. */
  timeMin: z.number(),
  timeMax: z.number(),
  /** Bloom filter of the request IDs, base64. */
  requestIds: z.base64(),
  /** Keys of the segments that this one took the place of. */
  replaces: z.array(z.string()),
});
export type SegmentStats = z.infer<typeof segmentStats>;

export type Segment = {
  key: string;
  /** The span of its hour or day, epoch ms, the end not included. */
  from: number;
  until: number;
  application: string;
  bytes: number;
  /** `<writer>-<number>`: the local journal that it was made of; undefined for merged ones. */
  journal: string | undefined;
};

/** The key of a segment of an application and an hour, or a day. */
export function segmentKey(span: { from: number; until: number }, application: string, name: string): string {
  const app = application === "" ? NO_APPLICATION : encodeURIComponent(application).replace(/^_/, "%5F");
  const time = new Date(span.from).toISOString();
  const part = span.until - span.from === DAY_MS ? `day=${time.slice(0, 10)}` : `hour=${time.slice(0, 13)}`;
  return `${SEGMENTS_PREFIX}${part}/app=${app}/${name}${SEGMENT_SUFFIX}`;
}

/** The hour that begins at an instant. */
export const hourFrom = (from: number): { from: number; until: number } => ({ from, until: from + HOUR_MS });

export const statsKey = (key: string): string => `${key.slice(0, -SEGMENT_SUFFIX.length)}${STATS_SUFFIX}`;

const KEY =
  /^logs\/v1\/(?:hour=(\d{4}-\d\d-\d\dT\d\d)|day=(\d{4}-\d\d-\d\d))\/app=([^/]+)\/([A-Za-z0-9]+-(m?)\d+)\.parquet$/;

/** What a key says; undefined for objects that are no segments. */
export function parseSegmentKey(key: string, bytes: number): Segment | undefined {
  const match = KEY.exec(key);
  if (match === null) return undefined;
  const [, hour, day, app = "", file, merged] = match;
  const from = Date.parse(hour === undefined ? `${day}T00:00:00Z` : `${hour}:00:00Z`);
  if (Number.isNaN(from)) return undefined;
  const until = from + (hour === undefined ? DAY_MS : HOUR_MS);
  const application = app === NO_APPLICATION ? "" : decodeName(app);
  return { key, from, until, application, bytes, journal: merged === "m" ? undefined : file };
}

function decodeName(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** Segments that a query may have lines in, by what their keys say, newest first. */
export function byKey(segments: Iterable<Segment>, query: Query): Segment[] {
  return [...segments]
    .filter(
      ({ from, until, application }) =>
        (query.since === undefined || until > query.since) &&
        (query.until === undefined || from <= query.until) &&
        (query.application === "" ||
          application === query.application ||
          (query.requestId !== "" && application === "")),
    )
    .sort((a, b) => b.until - a.until || (a.key < b.key ? -1 : 1));
}

/** Whether a segment may have lines of a query, by its statistics. Unknown ones may. */
export function byStats(stats: SegmentStats | undefined, query: Query): boolean {
  if (stats === undefined) return true;
  if (query.since !== undefined && stats.timeMax < query.since) return false;
  if (query.until !== undefined && stats.timeMin > query.until) return false;
  return (
    query.requestId === "" || new Bloom(Buffer.from(stats.requestIds, "base64")).mayHave(query.requestId)
  );
}

export type MergePolicy = {
  /** Lines of an hour still come for this long after it. */
  lateMs: number;
  /** So many segments of an hour that is not over are merged too. */
  segmentsMax: number;
  /** Larger segments stay as they are. */
  mergedBytesMax: number;
};

/** Segments that are to become one, and the span of it. */
export type Merge = { from: number; until: number; application: string; segments: Segment[] };

/**
 * What is worth being merged now, oldest first: the segments of an hour that is over, or too many of one that is not, and
 * those of a day that is over. A segment is in one merge at most.
 */
export function planMerges(segments: Iterable<Segment>, policy: MergePolicy, now: number): Merge[] {
  const merges: Merge[] = [];
  const perDay = Map.groupBy(segments, ({ from, application }) => `${dayOf(from)} ${application}`);
  for (const all of perDay.values()) {
    const [{ from, application } = { from: 0, application: "" }] = all;
    const day = dayOf(from);
    if (now > day + DAY_MS + policy.lateMs) {
      merges.push(...mergeOf({ from: day, until: day + DAY_MS, application }, all, 2, policy));
      continue;
    }
    for (const ofHour of Map.groupBy(all, (segment) => segment.from).values()) {
      const [first] = ofHour;
      if (first === undefined) continue;
      const isOver = now > first.until + policy.lateMs;
      merges.push(...mergeOf(first, ofHour, isOver ? 2 : policy.segmentsMax, policy));
    }
  }
  return merges.sort((a, b) => a.from - b.from);
}

const dayOf = (at: number): number => Math.floor(at / DAY_MS) * DAY_MS;

/** The smallest first, as many as fit into one segment. */
function mergeOf(
  { from, until, application }: Omit<Merge, "segments">,
  all: readonly Segment[],
  countMin: number,
  policy: MergePolicy,
): Merge[] {
  if (all.length < countMin) return [];
  const group: Segment[] = [];
  let bytes = 0;
  for (const segment of all.toSorted((a, b) => a.bytes - b.bytes)) {
    if (bytes + segment.bytes > policy.mergedBytesMax) break;
    bytes += segment.bytes;
    group.push(segment);
  }
  return group.length < 2 ? [] : [{ from, until, application, segments: group }];
}

/** Segments to delete: those that are wholly too old, then the oldest beyond the size. */
export function planRetention(
  segments: Iterable<Segment>,
  limits: { keepMs: number; bytesMax: number },
  now: number,
): Segment[] {
  const newestFirst = [...segments].sort((a, b) => b.until - a.until);
  const expired: Segment[] = [];
  let bytes = 0;
  for (const segment of newestFirst) {
    bytes += segment.bytes;
    const tooOld = segment.until < now - limits.keepMs;
    if (tooOld || (limits.bytesMax > 0 && bytes > limits.bytesMax)) expired.push(segment);
  }
  return expired;
}
