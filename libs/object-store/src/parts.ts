// Cuts a stream into parts of the sizes that a multipart upload wants, holding one part at a time. Pure but for the
// reading.

const MiB = 1024 * 1024;
/** S3 takes 10,000 parts of at least 5 MiB: small ones first for bounded memory, larger ones for huge objects. */
const SMALL_PARTS_MAX = 5000;
const SMALL_PART_BYTES = 8 * MiB;
const LARGE_PART_BYTES = 64 * MiB;

/** Bytes of part number `index` (from 0): up to 352 GiB in 10,000 parts. */
function partBytes(index: number): number {
  return index < SMALL_PARTS_MAX ? SMALL_PART_BYTES : LARGE_PART_BYTES;
}

/** Parts in order, each but the last of exactly `sizeOf(index)` bytes. An empty stream gives no part. */
export async function* cutIntoParts(
  body: AsyncIterable<Uint8Array>,
  sizeOf: (index: number) => number = partBytes,
): AsyncGenerator<Uint8Array> {
  let index = 0;
  let part = Buffer.allocUnsafeSlow(sizeOf(index));
  let filled = 0;
  for await (const chunk of body) {
    for (let used = 0; used < chunk.byteLength; ) {
      const take = Math.min(chunk.byteLength - used, part.byteLength - filled);
      part.set(chunk.subarray(used, used + take), filled);
      filled += take;
      used += take;
      if (filled === part.byteLength) {
        yield part;
        index += 1;
        part = Buffer.allocUnsafeSlow(sizeOf(index));
        filled = 0;
      }
    }
  }
  if (filled > 0) yield part.subarray(0, filled);
}
