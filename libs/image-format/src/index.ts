// The image format: reading and writing, without I/O of its own. docs/image-format.md describes it for other readers.
// For converters
export { type Assembled, type AssembleOptions, assembleImage } from "./assemble.ts";
// For everyone
export { bytesOfText, textOfBytes } from "./byte-string.ts";
export { BLOCK_BYTES, type ChunkSink, checkChunkBytes } from "./chunker.ts";
export { type ErofsEntry, readErofs } from "./erofs/read.ts";
export { encodeHotPack, type HotRun, parseHotPackSummary, runBytes } from "./hot-pack.ts";
export {
  encodeImageFile,
  IMAGE_MEDIA_TYPE,
  IMAGE_VERSION,
  type ImageFile,
  type ImageManifest,
  type ImageParts,
  parseImageFile,
  parseImageManifest,
} from "./image-file.ts";
export {
  BLOB_KINDS,
  blobSize,
  type ChunkEncoding,
  type ImageIndex,
  type IndexBlob,
  type IndexChunk,
  type IndexPack,
} from "./image-index.ts";
export {
  CHAINS_PREFIX,
  chainKey,
  digestHex,
  HOT_PREFIX,
  hotKey,
  IMAGES_PREFIX,
  imageKey,
  LAYERS_PREFIX,
  layerKey,
  PACKS_PREFIX,
  PROFILES_PREFIX,
  packKey,
  profileKey,
} from "./keys.ts";
export {
  decodeLayerChunks,
  decodeLayerRecord,
  encodeLayerRecord,
  LAYER_RECORD_HEAD_BYTES,
  type LayerChunk,
  type LayerChunks,
  type LayerPack,
  type LayerRecord,
  layerChunksEnd,
} from "./layer-record.ts";
export { DEFAULT_LAYER_LIMITS, type LayerEntry, type LayerLimits, LayerScanner } from "./layer-scan.ts";
export { type Inode, type InodeKind, LayerMerger, walk } from "./merge.ts";
export { decodeChunk, metadataImage } from "./metadata.ts";
export { normalisePath, parentOf } from "./path.ts";
export {
  encodeProfile,
  hotRuns,
  mergeProfile,
  type Profile,
  parseProfile,
  type TouchedRuns,
} from "./profile.ts";
export { type TarEntry, type TarEntryKind, TarReader, type TarSink } from "./tar/reader.ts";
