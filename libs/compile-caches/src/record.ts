// Where compile caches lie in the bucket, and what is written about one. An archive is named by its digest, so it is never
// replaced; the record under the key, replaced whole, says which archive counts and whose it is.
//   compile-caches/<key>.json
//   compile-caches/archives/<key>/<sha256>.tar.zst
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

const hex = z.string().regex(/^[0-9a-f]{64}$/);
const owner = z.object({
  /** For people. */
  application: z.string(),
  deployment: z.string(),
  /** What a version has to say to be given this cache, and the image that it has to lead to. */
  specification: hex,
  manifestDigest: z.string(),
});
const record = owner.extend({
  format: z.literal(2),
  archive: hex,
  /** Of the files. */
  bytes: z.int().min(0),
  files: z.int().min(0),
});
/** Whose a cache is. */
export type CacheOwner = z.infer<typeof owner>;
export type CacheRecord = z.infer<typeof record>;

/** Names and digests: some hundred bytes. */
export const RECORD_BYTES_MAX = 8_192;
export const PREFIX = "compile-caches/";
const ARCHIVES_PREFIX = `${PREFIX}archives/`;

export const recordKey = (key: string): string => `${PREFIX}${key}.json`;
export const archiveKey = (key: string, sha256: string): string => `${archivesPrefix(key)}${sha256}.tar.zst`;
/** Where the archives of one cache lie. */
export const archivesPrefix = (key: string): string => `${ARCHIVES_PREFIX}${key}/`;

/** The cache that an object's key belongs to, where it is a record. */
export const keyOfRecord = (objectKey: string): string | undefined =>
  /^compile-caches\/([0-9a-f]{64})\.json$/.exec(objectKey)?.[1];

export const isArchive = (objectKey: string): boolean => objectKey.startsWith(ARCHIVES_PREFIX);

export const formatRecord = (value: Omit<CacheRecord, "format">): string =>
  JSON.stringify({ format: 2, ...value } satisfies CacheRecord);

/** Throws `corrupt` for what is no record. */
export function parseRecord(bytes: Uint8Array): CacheRecord {
  try {
    return record.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch (cause) {
    throw new PlatformError("corrupt", "the record of a compile cache cannot be read", {
      cause,
      remedy: "Delete it: the next start compiles anew and saves another one.",
    });
  }
}
