// The conversion as a library: no bus, no database. Services and command-line tools wire it.
export { collectGarbage, type GarbageOptions, type GarbageReport } from "./collect-garbage.ts";
export { type ConvertedImage, type ConvertRequest, convertImage } from "./convert.ts";
export { type ConvertLimits, DEFAULT_CONVERT_LIMITS } from "./limits.ts";
export type { ConvertProgress } from "./progress.ts";
export { readImageManifest } from "./read-image.ts";
export { type StoredReport, type VerifyOptions, type VerifyProgress, verifyStored } from "./verify-stored.ts";
