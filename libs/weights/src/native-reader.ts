// Reads ranges with the native mover where a store's objects lie behind HTTP, and in the plain way for everything
// else: files, and answers that need more than bytes to be moved (redirects, expired signatures, errors to be named).
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { ByteSource, ObjectStore } from "@pilotlight/object-store";
import type { Mover } from "@pilotlight/streamer";
import { type BlockChecksums, WRONG_BYTES_REMEDY } from "./checksums.ts";
import type { RangeReader, RangeRequest } from "./ports.ts";

/** Where an object is, its URL parsed once. */
type Place =
  | { source: Extract<ByteSource, { kind: "http" }>; url: URL }
  | { source: Extract<ByteSource, { kind: "file" }>; url: undefined };
type Located = WeakMap<ObjectStore, Map<string, Promise<Place>>>;

/** `fallback` is the reader that works for everything. */
export function createNativeReader(mover: Mover, fallback: RangeReader): RangeReader {
  const sources: Located = new WeakMap();
  return async (store, request, segment, signal) => {
    const { descriptor } = segment;
    const place = descriptor === undefined ? undefined : await located(sources, store, request);
    if (place?.url === undefined || descriptor === undefined)
      return fallback(store, request, segment, signal);
    const { source, url } = place;
    const { etag, key, offset, length } = request;
    if (source.info.etag !== etag) {
      throw new PlatformError("preconditionFailed", `${key} was replaced while it was loaded`, {
        remedy: "Start the load again.",
      });
    }
    const moved = mover.move(
      {
        url,
        headers: source.headers,
        etag: source.etagAskable ? etag : null,
        offset,
        length,
        file: descriptor,
        position: segment.base + offset,
        memory: segment.memory ?? null,
        checksums: request.checksums === undefined ? null : blocksOf(request, request.checksums),
      },
      signal,
    );
    const outcome = await moved.catch((error: unknown) => Promise.reject(named(key, error)));
    if (outcome.kind === "otherAnswer") return fallback(store, request, segment, signal);
    segment.filled(length);
  };
}

/** The mover knows addresses only. */
function named(key: string, thrown: unknown): PlatformError {
  const { code, message, remedy: said } = toPlatformError(thrown);
  const remedy = code === "corrupt" ? WRONG_BYTES_REMEDY : said;
  return new PlatformError(code, `${key}: ${message}`, {
    cause: thrown,
    ...(remedy === undefined ? {} : { remedy }),
  });
}

/** Where the key is; asked once for all that want it, and again shortly before it expires. */
async function located(
  sources: Located,
  store: ObjectStore,
  { key, etag, size }: RangeRequest,
): Promise<Place> {
  let byKey = sources.get(store);
  if (byKey === undefined) {
    byKey = new Map();
    sources.set(store, byKey);
  }
  while (true) {
    const known = byKey.get(key);
    const place = await known?.catch(() => undefined);
    if (place !== undefined && (place.url === undefined || Date.now() < place.source.expiresAt)) return place;
    // Whoever comes first asks; the others look again.
    if (byKey.get(key) !== known) continue;
    const asked = store
      .locate(key, { known: { key, etag, size, modifiedAt: 0 } })
      .then((source) =>
        source.kind === "http" ? { source, url: new URL(source.url) } : { source, url: undefined },
      );
    byKey.set(key, asked);
    return asked;
  }
}

/** The checksums of a range's blocks, as the mover wants them. */
export function blocksOf({ offset, length }: { offset: number; length: number }, checksums: BlockChecksums) {
  const first = offset / checksums.blockBytes;
  const blocks = Uint32Array.from({ length: Math.ceil(length / checksums.blockBytes) }, (_, i) => {
    return Number.parseInt(checksums.blocks.slice((first + i) * 8, (first + i + 1) * 8), 16);
  });
  return { blockBytes: checksums.blockBytes, blocks };
}
