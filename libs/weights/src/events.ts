// What a load tells those who wait for it, in this order: opened, then tensors and progress, then complete.
import type { Dtype, TensorEntry } from "@pilotlight/safetensors";

/**
 * A tensor whose bytes are complete and checked: map `path` and take `runs` pieces of `runBytes`, the first at `offset`,
 * `strideBytes` apart. A whole tensor is one piece.
 */
export type TensorReady = {
  kind: "tensor";
  name: string;
  dtype: Dtype;
  shape: number[];
  path: string;
  offset: number;
  /** Of all pieces. */
  length: number;
  runBytes: number;
  strideBytes: number;
  runs: number;
};

export type WeightsEvent =
  | {
      kind: "opened";
      /** config.json, tokenizer.json and the like, by name. */
      files: ReadonlyMap<string, Uint8Array>;
      bytesTotal: number;
      /** Those to come as the source has them, file by file, front to back. */
      tensors: readonly TensorEntry[];
      /** Free-form strings of the headers; of several files' equal keys the last. */
      metadata: ReadonlyMap<string, string>;
      /** True when the node had everything already. */
      cached: boolean;
    }
  | TensorReady
  | { kind: "progress"; bytesDone: number; bytesTotal: number; bytesPerSecond: number }
  | {
      kind: "complete";
      /** Over the wire for this load; 0 when the node had the bytes or another replica fetched them. */
      bytesFetched: number;
      durationMs: number;
    };
