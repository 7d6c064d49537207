// Conversion as a library: no bus, no database. The image-converter service, the command line and benchmarks wire it.
export { chainIdsOf, imagesOfChain } from "./chains.ts";
export { collectGarbage, type GarbageOptions, type GarbageReport } from "./collect-garbage.ts";
export { type ConvertedImage, type ConvertRequest, convertImage } from "./convert.ts";
export { convertPrefix, type PrefixRequest } from "./convert-prefix.ts";
export { readImageFile, resolveImage } from "./find-image.ts";
export { type ConvertLimits, DEFAULT_CONVERT_LIMITS } from "./limits.ts";
export type { ConvertProgress } from "./progress.ts";
export { readImageManifest } from "./read-image.ts";
export { type Unkept, unpackWithTar } from "./unpack-with-tar.ts";
export { type StoredReport, type VerifyOptions, type VerifyProgress, verifyStored } from "./verify-stored.ts";
