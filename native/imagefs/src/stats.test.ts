import { expect, test } from "vitest";
import { statsSchema } from "./stats.ts";

test("a handler of an earlier version is understood: what it does not tell is nothing", () => {
  const stats = statsSchema.parse({
    images: [
      {
        key: "a".repeat(64),
        mounts: 1,
        method: "fuse",
        dataBytes: 1,
        presentBytes: 1,
        diskBytes: 1,
        fetchedBytes: 1,
        failedReads: 0,
        readEvents: 3,
        watched: true,
      },
    ],
    requests: 0,
    hedges: 0,
    retries: 0,
    corrupt: 0,
    copiedBytes: 0,
    requestMicros: 0,
    queued: { demand: 0, prefetch: 0, background: 0 },
  });
  expect(stats.images[0]).toMatchObject({ peerBytes: 0, writtenBytes: 0, writeMicros: 0 });
  expect(stats.peers).toEqual({ asked: 0, refused: 0, wrong: 0, uploadedBytes: 0, turnedAway: 0 });
});
