// The safetensors header beside the reference library (PyPI's safetensors, which is the Rust crate): whatever both accept must
// come out equal, and what the reference refuses must not be accepted here.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { isDeepStrictEqual } from "node:util";
import { LENGTH_BYTES, parseHeader, parseHeaderLength } from "@pilotlight/safetensors";
import { ensurePythonVenv } from "@pilotlight/servers";

const REFERENCE = ["safetensors==0.8.0"];
const CASES = join(import.meta.dirname, "../../libs/safetensors/scripts/header_cases.py");

type Tensors = Record<string, [dtype: string, shape: number[], bytes: number]>;
type Case = { file: string; tensors: Tensors | null };

export type HeaderFuzz = {
  cases: number;
  /** Accepted by both, alike. */
  accepted: number;
  /** Refused here and not by the reference: allowed, for the reasons that header.ts names. */
  stricter: number;
};

/** Compares files of one seed until `isEnough`. Throws with the seed and the file for the first difference. */
export async function fuzzHeaders(seed: number, isEnough: (cases: number) => boolean): Promise<HeaderFuzz> {
  const venv = await ensurePythonVenv("safetensors-reference", REFERENCE);
  const reference = spawn(join(venv, "bin/python"), [CASES, String(seed)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const result: HeaderFuzz = { cases: 0, accepted: 0, stricter: 0 };
  try {
    for await (const line of createInterface({ input: reference.stdout })) {
      compare(JSON.parse(line, own) as Case, seed, result);
      if (isEnough(++result.cases)) return result;
    }
    throw new Error(`the reference ended after ${result.cases} files: is Python's safetensors there?`);
  } finally {
    reference.kill();
  }
}

/** Names such as `__proto__` become keys like any other. */
function own(_key: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.assign(Object.create(null), value);
}

function compare({ file, tensors }: Case, seed: number, result: HeaderFuzz): void {
  const ours = verdict(Buffer.from(file, "hex"));
  if (ours === null) {
    if (tensors !== null) result.stricter++;
    return;
  }
  if (tensors !== null && isDeepStrictEqual({ ...ours }, { ...tensors })) {
    result.accepted++;
    return;
  }
  const text = Buffer.from(file, "hex").subarray(LENGTH_BYTES).toString("latin1").slice(0, 300);
  throw new Error(
    `seed ${seed}, file ${result.cases}: ${tensors === null ? "accepted what the reference refuses" : "read otherwise than the reference"}: ${text}\nwhole file in hex: ${file}`,
  );
}

function verdict(file: Buffer): Tensors | null {
  try {
    const end = LENGTH_BYTES + parseHeaderLength(file, file.byteLength);
    const { tensors } = parseHeader(file.subarray(LENGTH_BYTES, end), file.byteLength);
    const found: Tensors = Object.create(null);
    for (const { name, dtype, shape, length } of tensors) found[name] = [dtype, shape, length];
    return found;
  } catch {
    return null;
  }
}
