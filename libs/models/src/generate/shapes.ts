// Shapes of generated models: real ones, so that load tests move the same tensors as production does, and a tiny one
// for unit tests. Pure.
import { PlatformError } from "@pilotlight/errors";

export const ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral", "mixtral", "bert"] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

export type Shape = {
  layers: number;
  hidden: number;
  intermediate: number;
  heads: number;
  keyValueHeads: number;
  headSize: number;
  vocabulary: number;
  /** Longest sequence, tokens. */
  context: number;
  /** Of a mixture-of-experts layer; 0 for a dense one. */
  experts: number;
};

export const PRESETS = {
  /** About 100 kB in bf16. */
  tiny: {
    layers: 2,
    hidden: 48,
    intermediate: 96,
    heads: 3,
    keyValueHeads: 1,
    headSize: 16,
    vocabulary: 264,
    context: 512,
    experts: 0,
  },
  /** Few large tensors, as Llama 2 7B: 13.5 GB in 32 layers. */
  "7b": {
    layers: 32,
    hidden: 4096,
    intermediate: 11_008,
    heads: 32,
    keyValueHeads: 32,
    headSize: 128,
    vocabulary: 32_000,
    context: 4096,
    experts: 0,
  },
  /** As Llama 2 70B: 138 GB in 80 layers. */
  "70b": {
    layers: 80,
    hidden: 8192,
    intermediate: 28_672,
    heads: 64,
    keyValueHeads: 8,
    headSize: 128,
    vocabulary: 32_000,
    context: 4096,
    experts: 0,
  },
  /** As Mixtral 8x7B: 93 GB in 32 layers. */
  moe: {
    layers: 32,
    hidden: 4096,
    intermediate: 14_336,
    heads: 32,
    keyValueHeads: 8,
    headSize: 128,
    vocabulary: 32_000,
    context: 32_768,
    experts: 8,
  },
  /** Many small tensors: 10,800 in 1.9 GB. */
  many: {
    layers: 1200,
    hidden: 256,
    intermediate: 768,
    heads: 4,
    keyValueHeads: 4,
    headSize: 64,
    vocabulary: 32_000,
    context: 2048,
    experts: 0,
  },
} as const satisfies Record<string, Shape>;

export type Preset = keyof typeof PRESETS;

/** Checks that a shape can be built. Throws invalidArgument with the field. */
export function checkShape(architecture: Architecture, shape: Shape): void {
  const limits: [keyof Shape, number][] = [
    ["layers", 10_000],
    ["hidden", 65_536],
    ["intermediate", 262_144],
    ["heads", 1024],
    ["keyValueHeads", 1024],
    ["headSize", 1024],
    ["vocabulary", 1_000_000],
    ["context", 10_000_000],
  ];
  for (const [field, max] of limits) {
    const value = shape[field];
    if (!Number.isInteger(value) || value < 1 || value > max)
      throw wrong(field, `${value} is not within 1…${max}`);
  }
  if (shape.heads % shape.keyValueHeads !== 0) throw wrong("keyValueHeads", "does not divide heads");
  if (architecture === "bert" && shape.heads * shape.headSize !== shape.hidden) {
    throw wrong("headSize", "times heads must be hidden for bert");
  }
  if (architecture === "mixtral" && shape.experts < 2) throw wrong("experts", "mixtral needs at least 2");
}

function wrong(field: string, what: string): PlatformError {
  return new PlatformError("invalidArgument", `generated model: ${field} ${what}`, { field });
}
