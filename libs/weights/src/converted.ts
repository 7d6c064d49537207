// Weights whose floats arrive in another width than the source has: ranges are received and checked in a scratch file, converted,
// and only what becomes of them is kept. Each segment holds its file's tensors one after the other, without a header.
//   V1. Only bytes that were checked are converted, range by range; an element that two ranges share when both have come.
import { PlatformError } from "@pilotlight/errors";
import { DTYPE_BITS, type TensorEntry, tensorBytes } from "@pilotlight/safetensors";
import { convertedDtype, convertFloats, type TargetDtype } from "./floats.ts";
import type { RangeReader, Scratch, Segment, SegmentSet } from "./ports.ts";
import type { Repository } from "./repository.ts";

/** Tensors begin on whole elements of every width, and on cache lines. */
const ALIGNMENT_BYTES = 64;

type Placed = { source: TensorEntry; stored: TensorEntry };

/** Where everything of a repository lies once it is converted. */
export class ConvertedLayout {
  readonly #files: Placed[][];
  readonly #stored: ReadonlyMap<TensorEntry, TensorEntry>;
  readonly #bytes: number[];
  readonly #keys: readonly string[];

  /** Throws preconditionFailed for a quantised model: its scales belong to the numbers as they are. */
  constructor({ weights, files }: Pick<Repository, "weights" | "files">, target: TargetDtype) {
    refuseQuantised(files);
    this.#keys = weights.map(({ key }) => key);
    this.#files = weights.map(({ header }) => placed(header.tensors, target));
    this.#stored = new Map(this.#files.flat().map(({ source, stored }) => [source, stored]));
    this.#bytes = this.#files.map((tensors) => {
      const { offset = 0, length = 0 } = tensors.at(-1)?.stored ?? {};
      return offset + length;
    });
  }

  /** For whoever makes room: files of the converted sizes. */
  sized<T extends Pick<Repository, "weights" | "bytesTotal">>(repository: T): T {
    const weights = repository.weights.map((file, i) => ({ ...file, bytes: this.#bytes[i] ?? 0 }));
    return { ...repository, weights, bytesTotal: this.#bytes.reduce((sum, bytes) => sum + bytes, 0) };
  }

  /** Where a tensor of the source lies in its file's segment, and what it is now. */
  stored(tensor: TensorEntry): TensorEntry {
    const stored = this.#stored.get(tensor);
    if (stored === undefined) throw new PlatformError("internal", `${tensor.name} has no place`);
    return stored;
  }

  /** The segments as a flight writes them: in the source's bytes. */
  segments(inner: SegmentSet): SegmentSet {
    const segments = inner.segments.map((segment, i): Segment => {
      const converter = new FileConverter(this.#files[i] ?? [], segment);
      // Without a descriptor nobody receives bytes in place.
      return {
        ...segment,
        descriptor: undefined,
        memory: undefined,
        write: (bytes, offset) => converter.write(bytes, offset),
      };
    });
    return { segments, bytes: inner.bytes, scratch: () => inner.scratch(), remove: () => inner.remove() };
  }

  /** Reads ranges for segments of `set`. */
  reader(inner: RangeReader, set: SegmentSet): RangeReader {
    const own = new Map(set.segments.map((segment, i) => [segment, this.#keys[i]]));
    return async (store, request, segment, signal) => {
      // A second reading of a slow range has a scratch file already.
      if (!own.has(segment)) return inner(store, request, segment, signal);
      const scratch: Scratch | undefined = set.scratch();
      if (scratch === undefined) throw new PlatformError("internal", "there is no place to convert in");
      try {
        await inner(store, request, scratch.segment, signal);
        await scratch.copyTo(segment, request.offset, request.length);
      } finally {
        scratch.close();
      }
    };
  }
}

function placed(tensors: readonly TensorEntry[], target: TargetDtype): Placed[] {
  let end = 0;
  return tensors.map((source) => {
    const dtype = convertedDtype(source.dtype, target);
    const offset = Math.ceil(end / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    const stored = { ...source, dtype, offset, length: tensorBytes(dtype, source.shape) };
    end = offset + stored.length;
    return { source, stored };
  });
}

function refuseQuantised(files: ReadonlyMap<string, Uint8Array>): void {
  const text = Buffer.from(files.get("config.json") ?? []).toString("utf8");
  // Wherever in the file it stands: a model of several modalities keeps it with one of its parts.
  if (!/"quantization_config"\s*:\s*\{/.test(text)) return;
  throw new PlatformError("preconditionFailed", "a quantised model is not converted while it is loaded", {
    field: "dtype",
    remedy: "Load it as it is, or add the plain model.",
  });
}

/** Turns one file's bytes, range by range in any order, into its segment's. */
class FileConverter {
  readonly #tensors: readonly Placed[];
  readonly #segment: Segment;
  /** Elements of which another range has the rest, by where they begin in the file. */
  readonly #halves = new Map<number, { bytes: Uint8Array; missing: Set<number> }>();

  constructor(tensors: readonly Placed[], segment: Segment) {
    this.#tensors = tensors;
    this.#segment = segment;
  }

  /** Checked bytes of the file from `offset`. */
  write(bytes: Uint8Array, offset: number): void {
    for (let i = this.#firstEndingAfter(offset); i < this.#tensors.length; i++) {
      const tensor = this.#tensors[i] as Placed;
      const { source } = tensor;
      if (source.offset >= offset + bytes.byteLength) break;
      const begin = Math.max(source.offset, offset);
      const end = Math.min(source.offset + source.length, offset + bytes.byteLength);
      if (begin < end)
        this.#writePart(tensor, bytes.subarray(begin - offset, end - offset), begin - source.offset);
    }
  }

  /** `at`: from the tensor's beginning. */
  #writePart(tensor: Placed, bytes: Uint8Array, at: number): void {
    // What is not converted is copied byte by byte: only there elements may be smaller than a byte.
    const element = tensor.source.dtype === tensor.stored.dtype ? 1 : DTYPE_BITS[tensor.source.dtype] / 8;
    const head = Math.min(bytes.byteLength, (element - (at % element)) % element);
    const tail = (bytes.byteLength - head) % element;
    if (head > 0) this.#half(tensor, element, bytes.subarray(0, head), at);
    this.#convert(tensor, bytes.subarray(head, bytes.byteLength - tail), at + head);
    if (tail > 0)
      this.#half(tensor, element, bytes.subarray(bytes.byteLength - tail), at + bytes.byteLength - tail);
  }

  #half(tensor: Placed, element: number, bytes: Uint8Array, at: number): void {
    const begin = at - (at % element);
    const place = tensor.source.offset + begin;
    const half = this.#halves.get(place) ?? {
      bytes: new Uint8Array(element),
      missing: new Set(Array.from({ length: element }, (_, i) => i)),
    };
    this.#halves.set(place, half);
    half.bytes.set(bytes, at - begin);
    for (let i = 0; i < bytes.byteLength; i++) half.missing.delete(at - begin + i);
    if (half.missing.size > 0) return;
    this.#halves.delete(place);
    this.#convert(tensor, half.bytes, begin);
  }

  /** Whole elements. */
  #convert({ source, stored }: Placed, bytes: Uint8Array, at: number): void {
    if (bytes.byteLength === 0) return;
    const converted = convertFloats(bytes, source.dtype, stored.dtype);
    this.#segment.write(converted, stored.offset + (at * converted.byteLength) / bytes.byteLength);
  }

  #firstEndingAfter(offset: number): number {
    let [low, high] = [0, this.#tensors.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { source } = this.#tensors[middle] as Placed;
      if (source.offset + source.length > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
