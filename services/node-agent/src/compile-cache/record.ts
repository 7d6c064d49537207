// Where compile caches lie in the bucket, and what is written about one. An archive is named by its digest, so it is never
// replaced; the record under the key, replaced whole, says which archive counts.
//   compile-caches/archives/<sha256>.tar.zst
//   compile-caches/<key>.json
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

const hex = z.string().regex(/^[0-9a-f]{64}$/);
const record = z.object({
  format: z.literal(1),
  archive: hex,
  /** Of the files. */
  bytes: z.int().min(0),
  files: z.int().min(0),
});
export type CacheRecord = z.infer<typeof record>;

export const RECORD_BYTES_MAX = 4_096;
export const recordKey = (key: string): string => `compile-caches/${key}.json`;
export const archiveKey = (sha256: string): string => `compile-caches/archives/${sha256}.tar.zst`;

export const formatRecord = (value: Omit<CacheRecord, "format">): string =>
  JSON.stringify({ format: 1, ...value } satisfies CacheRecord);

/** Throws `corrupt` for what is no record. */
export function parseRecord(bytes: Uint8Array): CacheRecord {
  try {
    return record.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch (cause) {
    throw new PlatformError("corrupt", "the record of a compile cache cannot be read", { cause });
  }
}
