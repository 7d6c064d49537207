// Settings of the log service.
import { BUS_FIELDS } from "@pilotlight/bus";
import { bytes, count, defineConfig, durationMs, port, text, uri } from "@pilotlight/service";

export const config = defineConfig("logs", {
  ...BUS_FIELDS,
  stateDir: text(undefined, "Folder for the journal: lines that are not in the bucket yet."),
  bucketUri: uri(["file", "s3", "gs", "az"], undefined, "Bucket for the segments."),
  grpcHost: text("127.0.0.1", "Address of the gRPC door."),
  grpcPort: port(7466, "Port of the gRPC door."),
  segmentBytes: bytes(16 * 1024 ** 2, "The journal becomes segments at this size.", { min: 64 * 1024 }),
  segmentAgeMs: durationMs(600_000, "The journal becomes segments at this age.", { min: 100 }),
  batchAckTimeoutMs: durationMs(
    10_000,
    "A batch that is not in the journal after this time is delivered again.",
    {
      min: 500,
    },
  ),
  journalBytesMax: bytes(512 * 1024 ** 2, "Largest journal; beyond it batches wait in the bus."),
  journalSyncIntervalMs: durationMs(1_000, "The journal reaches the disk within this time.", { min: 1 }),
  upkeepIntervalMs: durationMs(300_000, "How often segments are merged and old ones deleted.", { min: 100 }),
  mergeLateMs: durationMs(900_000, "An hour's segments are merged so long after its end."),
  mergeSegmentsMax: count(8, "So many segments of an hour that is not over are merged too.", { min: 2 }),
  mergedBytesMax: bytes(256 * 1024 ** 2, "Largest merged segment."),
  retentionMs: durationMs(14 * 24 * 3_600_000, "Lines older than this are deleted."),
  retentionBytesMax: bytes(0, "The oldest segments beyond this size are deleted; 0: no bound."),
  searchesMax: count(4, "Searches at once.", { min: 1, max: 64 }),
  searchesWaitingMax: count(32, "Searches that may wait for a place."),
  searchTimeoutMs: durationMs(30_000, "Longest search."),
  searchSegmentsAtOnce: count(16, "Segments that one query reads together.", { min: 1, max: 256 }),
  followersMax: count(64, "Searches that follow at once."),
  followQueueMax: count(20_000, "Lines that may wait for one slow reader that follows.", { min: 1 }),
  statsBytesMax: bytes(16 * 1024 ** 2, "Statistics of segments in memory."),
  cacheBytesMax: bytes(1024 ** 3, "Copies of segments on disk, for buckets that are no directory."),
  analystMemoryBytesMax: bytes(256 * 1024 ** 2, "Memory of the database that writes and searches segments.", {
    min: 64 * 1024 ** 2,
  }),
  analystThreads: count(2, "Its threads.", { min: 1, max: 64 }),
  analystIdleMs: durationMs(15_000, "How long its process stays without work."),
});
