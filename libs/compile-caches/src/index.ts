export { type CollectOptions, type CollectReport, collectCompileCaches } from "./collect.ts";
export { compileCacheKey, type MachineKind, specificationOf } from "./identity.ts";
export {
  archiveKey,
  type CacheOwner,
  formatRecord,
  parseRecord,
  RECORD_BYTES_MAX,
  recordKey,
} from "./record.ts";
export { removeSpareArchives } from "./spare-archives.ts";
