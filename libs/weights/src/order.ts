// The order in which an engine wants tensors: what is fetched first, and, where it asks for that, in which order they are handed out.
// Pure.
import { PlatformError } from "@pilotlight/errors";
import type { TensorEntry } from "@pilotlight/safetensors";
import type { Chunk } from "./chunks.ts";

/** A tensor and the file that it lies in. */
type Placed = { file: number; tensor: Pick<TensorEntry, "name" | "offset" | "length"> };

/**
 * The tensors that an order names, each once: a name itself, or everything whose name begins with an entry that ends in a dot, in
 * file order. Throws invalidArgument for an entry that nothing answers to.
 */
export function orderedTensors<T extends Placed>(tensors: readonly T[], order: readonly string[]): T[] {
  const names = new Names(tensors);
  const found = new Set<T>();
  for (const wanted of new Set(order)) {
    const matching = names.answering(wanted);
    if (matching.length === 0) {
      throw new PlatformError(
        "invalidArgument",
        `no tensor is called ${JSON.stringify(wanted.slice(0, 200))}`,
        {
          field: "order",
          remedy:
            "Name tensors of the repository (`pilotlight weights inspect`), or beginnings of names that end in a dot.",
        },
      );
    }
    for (const placed of matching) found.add(placed);
  }
  return [...found];
}

/** False where `orderedTensors` would throw. */
export function isOrderOf(tensors: readonly Placed[], order: readonly string[]): boolean {
  const names = new Names(tensors);
  return order.every((wanted) => names.answering(wanted).length > 0);
}

/** Tensors by name; sorted, so that a beginning costs what it finds, however many entries an order has. */
class Names<T extends Placed> {
  readonly #sorted: { name: string; index: number; placed: T }[];

  constructor(tensors: readonly T[]) {
    this.#sorted = tensors
      .map((placed, index) => ({ name: placed.tensor.name, index, placed }))
      .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  /** In file order. */
  answering(wanted: string): T[] {
    const matches = wanted.endsWith(".")
      ? (name: string) => name.startsWith(wanted)
      : (name: string) => name === wanted;
    const found: { name: string; index: number; placed: T }[] = [];
    for (let i = this.#firstFrom(wanted); i < this.#sorted.length; i++) {
      const one = this.#sorted[i] as { name: string; index: number; placed: T };
      if (!matches(one.name)) break;
      found.push(one);
    }
    return found.sort((a, b) => a.index - b.index).map(({ placed }) => placed);
  }

  #firstFrom(wanted: string): number {
    let [low, high] = [0, this.#sorted.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#sorted[middle]?.name ?? "") < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The ranges that these tensors lie in, in their order, each once. */
export function chunksOf(placed: readonly Placed[], chunks: readonly Chunk[], chunkBytes: number): Chunk[] {
  const byPlace = new Map(chunks.map((chunk) => [placeOf(chunk.file, chunk.offset), chunk]));
  const found = new Set<Chunk>();
  for (const { file, tensor } of placed) {
    const end = tensor.offset + tensor.length;
    for (let at = tensor.offset - (tensor.offset % chunkBytes); at < end; at += chunkBytes) {
      const chunk = byPlace.get(placeOf(file, at));
      if (chunk !== undefined) found.add(chunk);
    }
  }
  return [...found];
}

const placeOf = (file: number, offset: number): string => `${file}:${offset}`;

/** All names: those that an order names first, the others after them as they were. Throws like `orderedTensors`. */
export function orderedNames(names: readonly string[], order: readonly string[]): string[] {
  const placed = names.map((name) => ({ file: 0, tensor: { name, offset: 0, length: 0 } }));
  return [...new Set([...orderedTensors(placed, order).map(({ tensor }) => tensor.name), ...names])];
}

/** Lets tensors through in one order only: what comes early is held back until everything before it has come. */
export class Sequence<T extends { name: string }> {
  readonly #waiting = new Map<string, T>();
  readonly #names: readonly string[];
  #next = 0;

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** A tensor has come; gives those that may go on now. */
  came(tensor: T): T[] {
    this.#waiting.set(tensor.name, tensor);
    const free: T[] = [];
    for (; this.#next < this.#names.length; this.#next++) {
      const name = this.#names[this.#next] as string;
      const there = this.#waiting.get(name);
      if (there === undefined) break;
      this.#waiting.delete(name);
      free.push(there);
    }
    return free;
  }
}
