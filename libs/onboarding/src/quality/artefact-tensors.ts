// What a quantised artefact's codes stand for, read back from where it was written: plain tensors for the engine, and the proof
// that what was stored is what was meant.
import type { PushedTensor } from "@pilotlight/engine";
import { roundToBf16 } from "@pilotlight/models";
import type { ObjectStore } from "@pilotlight/object-store";
import type { TensorEntry } from "@pilotlight/safetensors";
import type { Repository } from "@pilotlight/weights";
import { type FloatType, floatsOf } from "../quantise/row-blocks.ts";
import { dequantise } from "../quantise/rows.ts";
import type { Scheme } from "../quantise/scheme.ts";

type Placed = { entry: TensorEntry; key: string; etag: string };

/** The tensors under the names and shapes of the original; quantised ones in bfloat16 (float32 where their scales are). */
export async function* artefactTensors(
  store: ObjectStore,
  repository: Repository,
  scheme: Scheme,
  signal: AbortSignal,
): AsyncGenerator<PushedTensor> {
  const placed = new Map(
    repository.weights.flatMap(({ key, etag, header }) =>
      header.tensors.map((entry): [string, Placed] => [entry.name, { entry, key, etag }]),
    ),
  );
  const bytesOf = async (name: string): Promise<Uint8Array<ArrayBuffer>> => {
    const { entry, key, etag } = placed.get(name) as Placed;
    const range = { offset: entry.offset, length: entry.length };
    const { bytes } = await store.get(key, { range, ifMatch: etag, bytesMax: entry.length, signal });
    return Uint8Array.from(bytes);
  };
  for (const [name, { entry }] of placed) {
    if (/\.weight_(scale|shape)$/.test(name)) continue;
    const module = name.replace(/\.weight(_packed)?$/, "");
    const scale = placed.get(`${module}.weight_scale`);
    if (scale === undefined) {
      yield { name, dtype: entry.dtype, shape: entry.shape, bytes: await bytesOf(name) };
      continue;
    }
    const scales = floatsOf(await bytesOf(scale.entry.name), scale.entry.dtype as FloatType);
    const codes = await bytesOf(name);
    const [rows = 0] = entry.shape;
    const columns = codes.length / rows / (scheme.name === "int4" ? 0.5 : 1);
    const values = dequantise(codes, scales, scheme.groupSize ?? columns, scheme);
    const shape = [rows, columns];
    if (scale.entry.dtype === "F32") {
      yield { name: `${module}.weight`, dtype: "F32", shape, bytes: new Uint8Array(values.buffer) };
    } else {
      const halves = new Uint16Array(values.length);
      roundToBf16(values, halves);
      yield { name: `${module}.weight`, dtype: "BF16", shape, bytes: new Uint8Array(halves.buffer) };
    }
  }
}
