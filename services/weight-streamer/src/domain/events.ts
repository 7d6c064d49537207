// What a load tells those who wait for it, in this order: opened, then tensors and progress, then complete.
import type { Dtype } from "@pilotlight/safetensors";

/** A tensor whose bytes are complete and checked. Map `path` and take `length` bytes from `offset`. */
export type TensorReady = {
  kind: "tensor";
  name: string;
  dtype: Dtype;
  shape: number[];
  path: string;
  offset: number;
  length: number;
};

export type WeightsEvent =
  | {
      kind: "opened";
      /** config.json, tokenizer.json and the like, by name. */
      files: ReadonlyMap<string, Uint8Array>;
      bytesTotal: number;
      tensorsTotal: number;
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
