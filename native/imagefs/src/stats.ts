// What the handler reports about itself.
import * as z from "zod";

const count = z.number().min(0);
/** Not told by handlers of earlier versions, which go on while the node agent is replaced by a newer one. */
const newer = count.default(0);

const imageStatsSchema = z.object({
  /** Hex part of the manifest digest. */
  key: z.string(),
  mounts: count,
  method: z.enum(["fanotify", "fuse"]).nullable(),
  dataBytes: count,
  /** Of the data blob, on this machine. */
  presentBytes: count,
  diskBytes: count,
  /** From the bucket, compressed. */
  fetchedBytes: count,
  /** From other nodes, uncompressed. */
  peerBytes: newer,
  /** Written to the cache, and how long the writes took, in µs. */
  writtenBytes: newer,
  writeMicros: newer,
  /** Reads that ended with EIO. */
  failedReads: count,
  /** Reads that the kernel asked about before it did them; those of hot pages that are there are not among them. */
  readEvents: newer,
  /** The kernel still asks before it reads; false once everything is local. */
  watched: z.boolean(),
});

export const statsSchema = z.object({
  images: z.array(imageStatsSchema),
  /** Other nodes: requests to them, those that brought nothing, parts with wrong bytes; bytes sent to them, requests refused. */
  peers: z
    .object({ asked: newer, refused: newer, wrong: newer, uploadedBytes: newer, turnedAway: newer })
    .prefault({}),
  requests: count,
  hedges: count,
  retries: count,
  /** Ranges whose bytes had another checksum. */
  corrupt: count,
  /** Taken from other images of this machine instead of the bucket. */
  copiedBytes: count,
  /** Moving average of a request's time, in µs. */
  requestMicros: count,
  queued: z.object({ demand: count, prefetch: count, background: count }),
});

export type ImagefsStats = z.infer<typeof statsSchema>;
export type ImageStats = z.infer<typeof imageStatsSchema>;

/** First page and number of pages (4 KiB) of the data blob. */
export type TouchedRun = [page: number, pages: number];

export const touchedSchema = z.object({ runs: z.array(z.tuple([z.number(), z.number()])) });
