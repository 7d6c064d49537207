// The safetensors format without any I/O: read headers, check shard indexes, lay out new files, slice for ranks.
export { DTYPE_BITS, type Dtype, isDtype, tensorBytes } from "./dtype.ts";
export {
  HEADER_BYTES_MAX,
  LENGTH_BYTES,
  parseHeader,
  parseHeaderLength,
  type SafetensorsHeader,
  type TensorEntry,
} from "./header.ts";
export { type FileLayout, layoutFile, type NewTensor } from "./layout.ts";
export {
  checkShards,
  findWeightFiles,
  formatIndex,
  INDEX_FILE,
  parseIndex,
  type ShardIndex,
  SINGLE_FILE,
  shardName,
  type WeightFiles,
} from "./repository.ts";
export {
  type DecoderHeads,
  decoderSplit,
  expertSlice,
  type Rank,
  type Split,
  sliceDimension,
  sliceForRank,
  type TensorSlice,
} from "./slices.ts";
