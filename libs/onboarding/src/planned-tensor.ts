// A tensor of the new repository before it is written: its place is planned from name, dtype and shape; its bytes are made
// when their turn comes. Units keep together what belongs together (a packed matrix and its scales).
import type { NewTensor } from "@pilotlight/safetensors";

export type PlannedTensor = NewTensor & {
  /** Opens the bytes from the start; may be called again. */
  open: () => AsyncIterable<Uint8Array>;
};

/** Tensors that stay in one file, in this order. */
export type Unit = readonly PlannedTensor[];
