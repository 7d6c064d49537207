// The tensors of the repository that a new one is made from. Every byte is read under its file's pinned ETag. Files are
// usually read front to back, and digested as they pass: what the new repository was made from is then known without a second
// reading, and compared with what was recorded when the source was added (I6).
import { createHash, type Hash } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import { sliceDimension, type TensorEntry, type TensorSlice } from "@pilotlight/safetensors";
import type { Repository, WeightFile } from "@pilotlight/weights";

export type SourceTensor = {
  entry: TensorEntry;
  /** The bytes of the tensor, or of a slice of it, in order. */
  read: (slice?: TensorSlice) => AsyncIterable<Uint8Array>;
};

export type SourceTensors = {
  /** In the order of the files, and in them. */
  tensors: readonly SourceTensor[];
  /** SHA-256 by file. Reads again what was not read whole and in order. Throws `corrupt` where the record differs. */
  digests: (signal: AbortSignal) => Promise<Record<string, string>>;
};

export function sourceTensors(
  store: ObjectStore,
  repository: Repository,
  signal: AbortSignal,
): SourceTensors {
  const files = repository.weights.map((file) => new PassingDigest(store, file));
  const tensors = files.flatMap((passing) =>
    passing.file.header.tensors.map((entry): SourceTensor => {
      const whole = sliceDimension(entry, 0, 0, entry.shape[0] ?? 1);
      return { entry, read: (slice = whole) => passing.read(entry, slice, signal) };
    }),
  );
  return {
    tensors,
    async digests(ended) {
      const found: Record<string, string> = {};
      for (const passing of files) found[passing.file.key] = await passing.finish(ended);
      return found;
    },
  };
}

class PassingDigest {
  readonly file: WeightFile;
  readonly #store: ObjectStore;
  #hash: Hash | undefined;
  /** Bytes of the file that the hash has seen. */
  #seen = 0;

  constructor(store: ObjectStore, file: WeightFile) {
    this.#store = store;
    this.file = file;
  }

  async *read(entry: TensorEntry, slice: TensorSlice, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    if (slice.length === 0) return;
    const { runs, runBytes, strideBytes } = slice;
    const length = (runs - 1) * strideBytes + runBytes;
    await this.#digestHead(signal);
    const digesting =
      slice.length === entry.length && this.#hash !== undefined && this.#seen === entry.offset;
    const hash = digesting ? this.#hash : undefined;
    const { key, etag } = this.file;
    const { body } = await this.#store.stream(key, {
      range: { offset: slice.offset, length },
      ifMatch: etag,
      signal,
    });
    for await (const piece of runs === 1 ? body : picked(body, slice)) {
      if (hash !== undefined) {
        hash.update(piece);
        this.#seen += piece.byteLength;
      }
      yield piece;
    }
  }

  /** Length field and header come before the first tensor. */
  async #digestHead(signal: AbortSignal): Promise<void> {
    if (this.#hash !== undefined) return;
    const { key, etag, header } = this.file;
    const range = { offset: 0, length: header.dataOffset };
    const { bytes } = await this.#store.get(key, { range, ifMatch: etag, bytesMax: range.length, signal });
    this.#hash = createHash("sha256").update(bytes);
    this.#seen = header.dataOffset;
  }

  async finish(signal: AbortSignal): Promise<string> {
    const { key, bytes, digest } = this.file;
    await this.#digestHead(signal);
    const hash = this.#seen === bytes && this.#hash !== undefined ? this.#hash : await this.#again(signal);
    const sha256 = hash.digest("hex");
    if (digest !== undefined && digest.sha256 !== sha256) {
      throw new PlatformError("corrupt", `${key} is not what its record says (SHA-256 ${sha256})`, {
        remedy: "Add the source again with `pilotlight model add`.",
      });
    }
    return sha256;
  }

  async #again(signal: AbortSignal): Promise<Hash> {
    const hash = createHash("sha256");
    const { key, etag } = this.file;
    for await (const piece of (await this.#store.stream(key, { ifMatch: etag, signal })).body)
      hash.update(piece);
    return hash;
  }
}

/** Of bytes that begin with the first run: the runs, one after the other. */
async function* picked(body: AsyncIterable<Uint8Array>, slice: TensorSlice): AsyncGenerator<Uint8Array> {
  const { runBytes, strideBytes } = slice;
  let position = 0;
  for await (const chunk of body) {
    for (let used = 0; used < chunk.byteLength; ) {
      const inStride = position % strideBytes;
      const wanted = inStride < runBytes;
      const take = Math.min((wanted ? runBytes : strideBytes) - inStride, chunk.byteLength - used);
      if (wanted) yield chunk.subarray(used, used + take);
      used += take;
      position += take;
    }
  }
}
