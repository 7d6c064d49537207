// A converted image as it lies in the bucket: found by its digest, described, and checked chunk by chunk.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  decodeChunk,
  IMAGES_PREFIX,
  type ImageFile,
  type IndexChunk,
  packKey,
  parseImageFile,
} from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";

const IMAGE_BYTES_MAX = 2 ** 30;
const DIGEST_BEGINNING = /^(?:sha256:)?([0-9a-f]{4,64})$/;
/** Chunks read together where they lie side by side. */
const READ_BYTES_MAX = 16 * 1024 * 1024;

/** The image whose manifest digest begins so. Throws `notFound`, and `invalidArgument` where several do. */
export async function findImage(
  bucket: ObjectStore,
  digest: string,
  signal?: AbortSignal,
): Promise<ImageFile> {
  const hex = DIGEST_BEGINNING.exec(digest)?.[1];
  if (hex === undefined) {
    throw new PlatformError("invalidArgument", `'${digest}' is no digest`, {
      remedy: "Write sha256: and its hex digits, the first four at least.",
    });
  }
  const with_ = signal === undefined ? {} : { signal };
  const keys: string[] = [];
  for await (const { key } of bucket.list({ prefix: `${IMAGES_PREFIX}${hex}`, ...with_ })) keys.push(key);
  const [key] = keys;
  if (key === undefined) {
    throw new PlatformError("notFound", `the bucket has no image ${digest}`, {
      remedy: "'pilotlight image list' shows them; 'pilotlight image convert' makes one.",
    });
  }
  if (keys.length > 1) {
    throw new PlatformError("invalidArgument", `${keys.length} images begin with ${digest}`, {
      remedy: "Write more of its digits.",
    });
  }
  const { bytes } = await bucket.get(key, { bytesMax: IMAGE_BYTES_MAX, ...with_ });
  return parseImageFile(Buffer.from(bytes));
}

/** What an image consists of. */
export function describeImage({ manifest, index }: ImageFile): Record<string, string | number> {
  const chunks = index.blobs.flatMap((blob) => blob.chunks);
  return {
    manifestDigest: manifest.manifestDigest,
    imageId: manifest.imageId,
    platform: manifest.platform,
    files: manifest.sizes.files,
    contentBytes: manifest.sizes.contentBytes,
    dataBytes: manifest.sizes.dataBytes,
    storedBytes: manifest.sizes.wireBytes,
    metadataBytes: manifest.sizes.metadataBytes,
    chunks: chunks.length,
    packs: index.packs.length,
  };
}

export type Verified = {
  chunks: number;
  bytes: number;
  bad: { chunk: string; object: string; why: string }[];
};

/** Reads and checks every chunk. Damage is a result, not an error. */
export async function verifyImage(
  bucket: ObjectStore,
  image: ImageFile,
  options: { signal: AbortSignal; onProgress: (bytesDone: number, bytesTotal: number) => void },
): Promise<Verified> {
  const all = image.index.blobs.flatMap((blob) => blob.chunks).filter((chunk) => chunk.encoding !== "zeros");
  const total = all.reduce((sum, chunk) => sum + chunk.wireLength, 0);
  const result: Verified = { chunks: all.length, bytes: 0, bad: [] };
  for (const [pack, chunks] of Map.groupBy(all, (chunk) => chunk.pack)) {
    const object =
      pack === 0 ? "the image object" : packKey(image.index.packs[pack]?.sha256 ?? Buffer.alloc(0));
    for (const run of runsOf(chunks)) {
      await verifyRun(bucket, image, { pack, object, run }, options.signal, result);
      options.onProgress(result.bytes, total);
    }
  }
  return result;
}

/** Chunks of one pack in its order, in pieces that are read at once. */
function runsOf(chunks: readonly IndexChunk[]): IndexChunk[][] {
  const runs: IndexChunk[][] = [];
  let length = 0;
  for (const chunk of chunks.toSorted((a, b) => a.packOffset - b.packOffset)) {
    const run = runs.at(-1);
    const last = run?.at(-1);
    const follows = last !== undefined && chunk.packOffset <= last.packOffset + last.wireLength;
    if (run === undefined || !follows || length + chunk.wireLength > READ_BYTES_MAX) {
      runs.push([chunk]);
      length = chunk.wireLength;
    } else {
      run.push(chunk);
      length += chunk.wireLength;
    }
  }
  return runs;
}

async function verifyRun(
  bucket: ObjectStore,
  image: ImageFile,
  { pack, object, run }: { pack: number; object: string; run: readonly IndexChunk[] },
  signal: AbortSignal,
  result: Verified,
): Promise<void> {
  const begin = run[0]?.packOffset ?? 0;
  const end = Math.max(...run.map((chunk) => chunk.packOffset + chunk.wireLength));
  const note = (chunk: IndexChunk, thrown: unknown) =>
    result.bad.push({
      chunk: chunk.sha256.toString("hex").slice(0, 12),
      object,
      why: toPlatformError(thrown).message,
    });
  let bytes: Buffer;
  try {
    bytes =
      pack === 0
        ? image.metadataPack.subarray(begin, end)
        : Buffer.from(
            (await bucket.get(object, { range: { offset: begin, length: end - begin }, signal })).bytes,
          );
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    for (const chunk of run) note(chunk, thrown);
    return;
  }
  for (const chunk of run) {
    const at = chunk.packOffset - begin;
    try {
      decodeChunk(chunk, bytes.subarray(at, at + chunk.wireLength));
    } catch (thrown) {
      note(chunk, thrown);
    }
    result.bytes += chunk.wireLength;
  }
}
