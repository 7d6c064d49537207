// A GGUF file's metadata and where its tensors are (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Read
// by Hugging Face's parser; sizes and places are checked here against the file before anything relies on them.
import { stat } from "node:fs/promises";
import { gguf } from "@huggingface/gguf";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type BlockFormat, blockFormat } from "./blocks.ts";

export type GgufTensor = {
  name: string;
  /** Rows first, as PyTorch has it (GGUF counts the other way). */
  shape: number[];
  format: BlockFormat;
  /** From the start of the file, and bytes. */
  offset: number;
  length: number;
};

export type GgufFile = { path: string; metadata: GgufMetadata; tensors: Map<string, GgufTensor> };

/** Opens a GGUF file. Throws `corrupt` for one that is damaged. */
export async function readGguf(path: string): Promise<GgufFile> {
  const { size } = await stat(path).catch((error: unknown) => {
    throw toPlatformError(error);
  });
  const parsed = await gguf(path, { allowLocalFile: true }).catch((cause: unknown) => {
    throw new PlatformError("corrupt", `${path} is no readable GGUF file: ${(cause as Error).message}`, {
      cause,
    });
  });
  if (!parsed.littleEndian) throw new PlatformError("unsupported", `${path} is a big-endian GGUF file`);
  const tensors = new Map<string, GgufTensor>();
  for (const info of parsed.tensorInfos) {
    const shape = info.shape.map(Number).reverse();
    const format = blockFormat(info.dtype);
    const count = shape.reduce((a, b) => a * b, 1);
    const offset = Number(parsed.tensorDataOffset + info.offset);
    const length = (count / format.values) * format.bytes;
    if (
      (shape.at(-1) ?? 0) % format.values !== 0 ||
      !Number.isSafeInteger(length) ||
      offset + length > size
    ) {
      throw new PlatformError(
        "corrupt",
        `${path}: tensor ${info.name} lies outside the file or ends inside a block`,
      );
    }
    tensors.set(info.name, { name: info.name, shape, format, offset, length });
  }
  return { path, metadata: new GgufMetadata(parsed.metadata), tensors };
}

/** Typed access to a file's key-value pairs; the wrong type, or absence where it matters, is `corrupt`. */
export class GgufMetadata {
  readonly #values: Record<string, unknown>;

  constructor(values: object) {
    this.#values = values as Record<string, unknown>;
  }

  number(key: string): number {
    return this.optionalNumber(key) ?? this.#missing(key);
  }

  optionalNumber(key: string): number | undefined {
    const value = this.#values[key];
    if (typeof value === "bigint") return Number(value);
    return typeof value === "number" ? value : undefined;
  }

  string(key: string): string {
    return this.optionalString(key) ?? this.#missing(key);
  }

  optionalString(key: string): string | undefined {
    const value = this.#values[key];
    return typeof value === "string" ? value : undefined;
  }

  strings(key: string): string[] {
    const value = this.#values[key];
    return Array.isArray(value) && value.every((item) => typeof item === "string")
      ? value
      : this.#missing(key);
  }

  numbers(key: string): number[] {
    const value = this.#values[key];
    return Array.isArray(value) && value.every((item) => typeof item === "number")
      ? value
      : this.#missing(key);
  }

  #missing(key: string): never {
    throw new PlatformError("corrupt", `the GGUF file has no usable ${key}`);
  }
}
