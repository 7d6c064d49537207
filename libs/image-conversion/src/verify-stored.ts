// Reads everything that an image needs from the bucket and checks it: what a reader would find if it touched every byte.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  decodeChunk,
  type IndexChunk,
  imageKey,
  metadataImage,
  packKey,
  parseImageFile,
  readErofs,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";

export type VerifyProgress = { doneBytes: number; totalBytes: number };

export type StoredReport = {
  imageId: string;
  entries: number;
  chunks: number;
  /** Stored bytes that were read. */
  readBytes: number;
  /** What is missing or wrong, one line each; empty when all is well. */
  problems: string[];
};

export type VerifyOptions = {
  bucket: ObjectStore;
  manifestDigest: string;
  onProgress?: (progress: VerifyProgress) => void;
  signal?: AbortSignal;
};

const IMAGE_BYTES_MAX = 1 << 30;
const PROBLEMS_MAX = 100;

/** Throws only when there is no image at all, or an unreadable one; damage in packs is reported. */
export async function verifyStored({
  bucket,
  manifestDigest,
  onProgress,
  signal,
}: VerifyOptions): Promise<StoredReport> {
  const object = await bucket.get(imageKey(manifestDigest), {
    bytesMax: IMAGE_BYTES_MAX,
    ...(signal && { signal }),
  });
  const file = parseImageFile(
    Buffer.from(object.bytes.buffer, object.bytes.byteOffset, object.bytes.byteLength),
  );
  const entries = [...readErofs(metadataImage(file))].length;
  const report: StoredReport = {
    imageId: file.manifest.imageId,
    entries,
    chunks: 0,
    readBytes: 0,
    problems: [],
  };
  const byPack = new Map<number, IndexChunk[]>();
  for (const chunk of file.index.blobs.slice(1).flatMap(({ chunks }) => chunks)) {
    report.chunks++;
    if (chunk.encoding !== "zeros") byPack.set(chunk.pack, [...(byPack.get(chunk.pack) ?? []), chunk]);
  }
  const totalBytes = file.manifest.sizes.wireBytes;
  for (const [pack, chunks] of byPack) {
    signal?.throwIfAborted();
    const key = packKey(file.index.packs[pack]?.sha256 ?? Buffer.alloc(32));
    try {
      await verifyPack(bucket, key, chunks, report, signal);
    } catch (error) {
      const known = toPlatformError(error);
      if (known.code === "cancelled" || known.retryable) throw known;
      report.problems.push(`${key}: ${known.message}`);
    }
    onProgress?.({ doneBytes: report.readBytes, totalBytes });
    if (report.problems.length >= PROBLEMS_MAX) break;
  }
  return report;
}

async function verifyPack(
  bucket: ObjectStore,
  key: string,
  chunks: IndexChunk[],
  report: StoredReport,
  signal?: AbortSignal,
): Promise<void> {
  const { bytes } = await bucket.get(key, signal === undefined ? {} : { signal });
  const pack = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  report.readBytes += pack.length;
  for (const chunk of chunks) {
    const wire = pack.subarray(chunk.packOffset, chunk.packOffset + chunk.wireLength);
    if (wire.length !== chunk.wireLength)
      throw new PlatformError("corrupt", `it ends at ${pack.length}, before a chunk at ${chunk.packOffset}`);
    try {
      decodeChunk(chunk, wire);
    } catch (error) {
      const name = chunk.sha256.toString("hex").slice(0, 12);
      report.problems.push(`chunk ${name} in ${key}: ${toPlatformError(error).message}`);
    }
  }
}
