// The reader that works for every kind of store: streams a range through its checksum into the segment. Wrong bytes
// are written before their block is known to be wrong, but no tensor is announced before its blocks are checked.
import type { ObjectStore } from "@pilotlight/object-store";
import { RangeChecker } from "./checksums.ts";
import type { RangeReader, RangeRequest, Segment } from "./ports.ts";

export const readRange: RangeReader = async (
  store: ObjectStore,
  request: RangeRequest,
  segment: Segment,
  signal: AbortSignal,
) => {
  const { key, etag, offset, length, checksums } = request;
  const stream = await store.stream(key, { range: { offset, length }, ifMatch: etag, signal });
  const checker = checksums === undefined ? undefined : new RangeChecker(key, checksums, offset);
  let position = offset;
  for await (const bytes of stream.body) {
    checker?.update(bytes);
    if (segment.place !== "source") segment.write(bytes, position);
    position += bytes.byteLength;
  }
  checker?.finish();
};
