// `pilotlight-quality.json`: what quantising has cost, tensor by tensor and, where an engine here runs the model, on a text.
import type { TensorQuality } from "../quantise/quantise-tensors.ts";
import { type Scheme, schemeBits } from "../quantise/scheme.ts";
import type { TextQuality } from "./compare.ts";

export const QUALITY_FILE = "pilotlight-quality.json";

export type QualityRecord = {
  format: "pilotlight-quality-1";
  scheme: { name: string; bits: number; groupSize: number | null; rounding: string };
  /** Over all quantised tensors, each weighing as much as it has weights. */
  overall: { relativeRms: number; worst: { name: string; relativeRms: number } | null; weights: number };
  /** How the model takes a fixed text before and after; or why that is not known. */
  text: TextQuality | { impossible: string };
  tensors: TensorQuality[];
};

export function qualityRecord(
  scheme: Scheme,
  tensors: TensorQuality[],
  text: QualityRecord["text"],
): QualityRecord {
  const sizes = tensors.map(({ shape }) => shape.reduce((a, b) => a * b, 1));
  const weights = sizes.reduce((a, b) => a + b, 0);
  const squares = tensors.reduce(
    (sum, { relativeRms }, i) => sum + relativeRms ** 2 * (sizes[i] as number),
    0,
  );
  const worst = tensors.reduce<TensorQuality | null>(
    (most, one) => (most === null || one.relativeRms > most.relativeRms ? one : most),
    null,
  );
  return {
    format: "pilotlight-quality-1",
    scheme: {
      name: scheme.name,
      bits: schemeBits(scheme),
      groupSize: scheme.groupSize,
      rounding: scheme.name === "int4" ? "nearest, scale of least squared error, of either sign" : "nearest",
    },
    overall: {
      relativeRms: weights === 0 ? 0 : Math.sqrt(squares / weights),
      worst: worst === null ? null : { name: worst.name, relativeRms: worst.relativeRms },
      weights,
    },
    text,
    tensors,
  };
}
