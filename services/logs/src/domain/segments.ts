// Segments: immutable Parquet objects with the lines of one application and one hour. What their keys say, what is known of
// them, which of them a search must read, which are worth merging, which are too old. Pure.
//
//   logs/v1/hour=2026-11-21T10/app=chat/<writer>-<journal>.parquet     one journal's lines
//   logs/v1/hour=2026-11-21T10/app=chat/<writer>-m<number>.parquet     several segments, merged
//   ….stats beside each: SegmentStats as JSON, written first
import { z } from "zod";
import { Bloom } from "./bloom.ts";
import type { Query } from "./query.ts";

export const SEGMENTS_PREFIX = "logs/v1/";
const SEGMENT_SUFFIX = ".parquet";
const STATS_SUFFIX = ".stats";
const HOUR_MS = 3_600_000;
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
  /** Begin of the hour, epoch ms. */
  hour: number;
  application: string;
  bytes: number;
  /** `<writer>-<number>`: the local journal that it was made of; undefined for merged ones. */
  journal: string | undefined;
};

/** The begin of the hour of an instant, both in epoch ms. */
export const hourOf = (at: number): number => Math.floor(at / HOUR_MS) * HOUR_MS;

/** Name of the folder of a partition. */
export function partitionKey(hour: number, application: string): string {
  const name = application === "" ? NO_APPLICATION : encodeURIComponent(application).replace(/^_/, "%5F");
  return `${SEGMENTS_PREFIX}hour=${new Date(hour).toISOString().slice(0, 13)}/app=${name}/`;
}

export const segmentKey = (hour: number, application: string, name: string): string =>
  `${partitionKey(hour, application)}${name}${SEGMENT_SUFFIX}`;

export const statsKey = (key: string): string => `${key.slice(0, -SEGMENT_SUFFIX.length)}${STATS_SUFFIX}`;

const KEY = /^logs\/v1\/hour=(\d{4}-\d\d-\d\dT\d\d)\/app=([^/]+)\/([A-Za-z0-9]+-(m?)\d+)\.parquet$/;

/** What a key says; undefined for objects that are no segments. */
export function parseSegmentKey(key: string, bytes: number): Segment | undefined {
  const match = KEY.exec(key);
  if (match === null) return undefined;
  const [, hour = "", name = "", file, merged] = match;
  const at = Date.parse(`${hour}:00:00Z`);
  if (Number.isNaN(at)) return undefined;
  const application = name === NO_APPLICATION ? "" : decodeName(name);
  return { key, hour: at, application, bytes, journal: merged === "m" ? undefined : file };
}

function decodeName(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** Segments that a query may have lines in, by what their keys say, newest hour first. */
export function byKey(segments: Iterable<Segment>, query: Query): Segment[] {
  return [...segments]
    .filter(
      ({ hour, application }) =>
        (query.since === undefined || hour + HOUR_MS > query.since) &&
        (query.until === undefined || hour <= query.until) &&
        (query.application === "" ||
          application === query.application ||
          (query.requestId !== "" && application === "")),
    )
    .sort((a, b) => b.hour - a.hour || (a.key < b.key ? -1 : 1));
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

/** The groups of segments that are worth being merged, oldest first. */
export function planMerges(segments: Iterable<Segment>, policy: MergePolicy, now: number): Segment[][] {
  const partitions = Map.groupBy(segments, ({ hour, application }) => partitionKey(hour, application));
  const groups: Segment[][] = [];
  for (const [, all] of [...partitions].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const isOver = now > (all[0]?.hour ?? now) + HOUR_MS + policy.lateMs;
    if (all.length < (isOver ? 2 : policy.segmentsMax)) continue;
    const group: Segment[] = [];
    let bytes = 0;
    for (const segment of all.toSorted((a, b) => a.bytes - b.bytes)) {
      if (bytes + segment.bytes > policy.mergedBytesMax) break;
      bytes += segment.bytes;
      group.push(segment);
    }
    if (group.length >= 2) groups.push(group);
  }
  return groups;
}

/** Segments to delete: those of hours that are too old, then the oldest beyond the size. */
export function planRetention(
  segments: Iterable<Segment>,
  limits: { keepMs: number; bytesMax: number },
  now: number,
): Segment[] {
  const newestFirst = [...segments].sort((a, b) => b.hour - a.hour);
  const expired: Segment[] = [];
  let bytes = 0;
  for (const segment of newestFirst) {
    bytes += segment.bytes;
    const tooOld = segment.hour + HOUR_MS < now - limits.keepMs;
    if (tooOld || (limits.bytesMax > 0 && bytes > limits.bytesMax)) expired.push(segment);
  }
  return expired;
}
