// Reads the JSON of a safetensors header: only the one shape it may have, so nothing else can hide in it. A general
// parser would not do: JSON.parse keeps the last of two equal keys, reads 1.0 as an integer and takes lone
// surrogates, all of which the format or its reference library refuses. Names are kept as they are; ranges and
// offsets are checked by header.ts.
import { PlatformError } from "@pilotlight/errors";
import { type Dtype, isDtype } from "./dtype.ts";

/** A tensor as the header declares it: `begin` and `end` count from the start of the data. */
export type DeclaredTensor = { name: string; dtype: Dtype; shape: number[]; begin: number; end: number };

export type DeclaredHeader = { metadata: Map<string, string>; tensors: DeclaredTensor[] };

const METADATA = "__metadata__";

/** Parses the header's text. Anything but a well-formed header is `corrupt`, with the position. */
export function parseHeaderJson(text: string): DeclaredHeader {
  return new HeaderJson(text).header();
}

class HeaderJson {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  header(): DeclaredHeader {
    const tensors: DeclaredTensor[] = [];
    let metadata = new Map<string, string>();
    this.#object((name) => {
      if (name === METADATA) metadata = this.#metadata();
      else tensors.push(this.#tensor(name));
    });
    this.#space();
    if (this.#at !== this.#text.length) throw this.#error("something follows the header's object");
    return { metadata, tensors };
  }

  #metadata(): Map<string, string> {
    const metadata = new Map<string, string>();
    this.#space();
    if (this.#text.startsWith("null", this.#at)) {
      this.#at += 4;
      return metadata;
    }
    this.#object((key) => metadata.set(key, this.#string()));
    return metadata;
  }

  #tensor(name: string): DeclaredTensor {
    let dtype: string | undefined;
    let shape: number[] | undefined;
    let offsets: number[] | undefined;
    this.#object((field) => {
      if (field === "dtype") dtype = this.#string();
      else if (field === "shape") shape = this.#integers();
      else if (field === "data_offsets") offsets = this.#integers();
      else throw this.#error(`tensor ${quote(name)} has an unknown field ${quote(field)}`);
    });
    const [begin, end] = offsets ?? [];
    if (
      dtype === undefined ||
      shape === undefined ||
      begin === undefined ||
      end === undefined ||
      offsets?.length !== 2
    ) {
      throw this.#error(`tensor ${quote(name)} needs dtype, shape and two data_offsets`);
    }
    if (!isDtype(dtype)) throw this.#error(`tensor ${quote(name)} has an unknown dtype ${quote(dtype)}`);
    return { name, dtype, shape, begin, end };
  }

  /** Reads an object; `value` is called with each key and reads what belongs to it. A repeated key is refused. */
  #object(value: (key: string) => void): void {
    const seen = new Set<string>();
    this.#expect("{");
    if (this.#takes("}")) return;
    do {
      const key = this.#string();
      if (seen.has(key)) throw this.#error(`the key ${quote(key)} appears twice`);
      seen.add(key);
      this.#expect(":");
      value(key);
    } while (this.#takes(","));
    this.#expect("}");
  }

  #integers(): number[] {
    const values: number[] = [];
    this.#expect("[");
    if (this.#takes("]")) return values;
    do values.push(this.#integer());
    while (this.#takes(","));
    this.#expect("]");
    return values;
  }

  #integer(): number {
    this.#space();
    const digits = /(?:0|[1-9][0-9]{0,15})(?![0-9.eE])/y;
    digits.lastIndex = this.#at;
    const match = digits.exec(this.#text)?.[0];
    const value = Number(match);
    if (match === undefined || !Number.isSafeInteger(value))
      throw this.#error("not a whole number below 2^53");
    this.#at += match.length;
    return value;
  }

  #string(): string {
    this.#space();
    const start = this.#at;
    if (this.#text[start] !== '"') throw this.#error("a string was expected");
    let escaped = false;
    let end = start + 1;
    for (let code = this.#text.charCodeAt(end); code !== 0x22; code = this.#text.charCodeAt(++end)) {
      if (Number.isNaN(code)) throw this.#error("a string does not end");
      if (code < 0x20) throw this.#error("a string holds a control character");
      if (code === 0x5c) {
        escaped = true;
        end += 1;
      }
    }
    this.#at = end + 1;
    return escaped ? this.#unescape(start, end) : this.#text.slice(start + 1, end);
  }

  #unescape(start: number, end: number): string {
    try {
      const value = JSON.parse(this.#text.slice(start, end + 1)) as string;
      if (value.isWellFormed()) return value;
    } catch {
      // Told below, with the position.
    }
    throw this.#error("a string has a malformed escape");
  }

  #expect(character: string): void {
    if (!this.#takes(character)) throw this.#error(`"${character}" was expected`);
  }

  #takes(character: string): boolean {
    this.#space();
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #space(): void {
    while (" \n\r\t".includes(this.#text[this.#at] ?? "x")) this.#at += 1;
  }

  #error(what: string): PlatformError {
    return new PlatformError("corrupt", `safetensors header, character ${this.#at}: ${what}`);
  }
}

function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
