// The chunks of a blob from the bucket, in the blob's order, verified: neighbouring chunks by one request, several
// requests ahead of the reader, bounded in bytes.
import {
  decodeChunk,
  type IndexBlob,
  type IndexChunk,
  type IndexPack,
  packKey,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";

export type BlobChunk = { offset: number; raw: Buffer };

const REQUEST_BYTES_MAX = 8 << 20;
const REQUESTS_AHEAD = 4;

type Group = { offset: number; chunks: IndexChunk[] };

export async function* readChunks(
  bucket: ObjectStore,
  packs: readonly IndexPack[],
  blob: IndexBlob,
  signal?: AbortSignal,
): AsyncGenerator<BlobChunk> {
  const pending: Array<{ group: Group; wire: Promise<Buffer> }> = [];
  const groups = grouped(blob);
  const fill = () => {
    while (pending.length < REQUESTS_AHEAD) {
      const next = groups.next();
      if (next.done === true) return;
      const wire = readGroup(bucket, packs, next.value, signal);
      // Awaited below, in order; until then a failure must not count as unhandled.
      wire.catch(() => undefined);
      pending.push({ group: next.value, wire });
    }
  };
  fill();
  for (let next = pending.shift(); next !== undefined; next = pending.shift()) {
    const wire = await next.wire;
    fill();
    let { offset } = next.group;
    let at = 0;
    for (const chunk of next.group.chunks) {
      yield { offset, raw: decodeChunk(chunk, wire.subarray(at, at + chunk.wireLength)) };
      at += chunk.wireLength;
      offset += chunk.rawLength;
    }
  }
}

/** Runs of chunks that stand one after the other in one pack. */
function* grouped(blob: IndexBlob): Generator<Group> {
  let offset = 0;
  let group: Group | undefined;
  let bytes = 0;
  for (const chunk of blob.chunks) {
    const last = group?.chunks.at(-1);
    const follows =
      last !== undefined &&
      chunk.pack === last.pack &&
      (chunk.encoding === "zeros") === (last.encoding === "zeros") &&
      (chunk.encoding === "zeros" || chunk.packOffset === last.packOffset + last.wireLength) &&
      bytes + chunk.wireLength <= REQUEST_BYTES_MAX;
    if (!follows || group === undefined) {
      if (group !== undefined) yield group;
      group = { offset, chunks: [] };
      bytes = 0;
    }
    group.chunks.push(chunk);
    bytes += chunk.wireLength;
    offset += chunk.rawLength;
  }
  if (group !== undefined) yield group;
}

async function readGroup(
  bucket: ObjectStore,
  packs: readonly IndexPack[],
  group: Group,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const first = group.chunks[0] as IndexChunk;
  const last = group.chunks.at(-1) as IndexChunk;
  if (first.encoding === "zeros") return Buffer.alloc(0);
  const key = packKey((packs[first.pack] as IndexPack).sha256);
  const length = last.packOffset + last.wireLength - first.packOffset;
  const { bytes } = await bucket.get(key, {
    range: { offset: first.packOffset, length },
    ...(signal && { signal }),
  });
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
