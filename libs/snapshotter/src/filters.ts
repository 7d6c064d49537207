// containerd's filter language, by which its metadata store finds snapshots again:
//   filter    := selector ("," selector)*        all must match; of several filters one must
//   selector  := path [("==" | "!=" | "~=") value]
//   path      := field ("." field)*              field: word or quoted
//   value     := quoted | characters up to a comma or space; after ~= also between / or |
// (pkg/filters of containerd.) What cannot be parsed is `invalidArgument`.
import { PlatformError } from "@pilotlight/errors";

/** A field's value of the thing that is looked at; undefined: it has no such field. */
export type FieldReader = (path: readonly string[]) => string | undefined;

type Selector = (read: FieldReader) => boolean;

const FIELD = /[A-Za-z0-9_]+/y;
const OPERATOR = /[=!~]+/y;
const VALUE = /[^\s,"][^\s,]*/y;
const QUOTED = /"(?:[^"\\\n]|\\.)*"/y;
const ALTERNATIVE_QUOTED = /\/(?:[^/\\\n]|\\.)*\/|\|(?:[^|\\\n]|\\.)*\|/y;

/** Whether something matches any of the filters; without filters everything does. */
export function parseFilters(filters: readonly string[]): (read: FieldReader) => boolean {
  const alternatives = filters.map((text) => new FilterParser(text).parse());
  return (read) =>
    alternatives.length === 0 ||
    alternatives.some((selectors) => selectors.every((selector) => selector(read)));
}

class FilterParser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Selector[] {
    const selectors: Selector[] = [];
    if (this.#text.trim() === "") return selectors;
    do selectors.push(this.#selector());
    while (this.#taken(","));
    if (this.#at < this.#text.length) throw this.#unexpected("a comma or the end");
    return selectors;
  }

  #selector(): Selector {
    const path = [this.#field()];
    while (this.#taken(".")) path.push(this.#field());
    const operator = this.#match(OPERATOR);
    if (operator === undefined) return (read) => read(path) !== undefined;
    const value = this.#value(operator === "~=");
    if (operator === "==") return (read) => read(path) === value;
    if (operator === "!=") return (read) => (read(path) ?? "") !== value;
    if (operator !== "~=") throw this.#unexpected("==, != or ~=");
    const pattern = this.#pattern(value);
    return (read) => pattern.test(read(path) ?? "");
  }

  #field(): string {
    const quoted = this.#match(QUOTED);
    const field = quoted === undefined ? this.#match(FIELD) : unquote(quoted);
    if (field === undefined) throw this.#unexpected("a field");
    return field;
  }

  #value(isPattern: boolean): string {
    const quoted = this.#match(QUOTED) ?? (isPattern ? this.#match(ALTERNATIVE_QUOTED) : undefined);
    if (quoted !== undefined) return unquote(quoted);
    const value = this.#match(VALUE);
    if (value === undefined) throw this.#unexpected("a value");
    return value;
  }

  #pattern(source: string): RegExp {
    try {
      return new RegExp(source, "u");
    } catch (cause) {
      throw this.#invalid(`${JSON.stringify(source)} is not a regular expression`, cause);
    }
  }

  #taken(character: string): boolean {
    this.#skipSpace();
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #match(token: RegExp): string | undefined {
    this.#skipSpace();
    token.lastIndex = this.#at;
    const found = token.exec(this.#text)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #skipSpace(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #unexpected(wanted: string): PlatformError {
    return this.#invalid(`position ${this.#at} should be ${wanted}`);
  }

  #invalid(why: string, cause?: unknown): PlatformError {
    return new PlatformError("invalidArgument", `filter ${JSON.stringify(this.#text)}: ${why}`, {
      field: "filters",
      cause,
    });
  }
}

const ESCAPES: Record<string, string> = {
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

/** Go's string syntax. */
function unquote(quoted: string): string {
  return quoted
    .slice(1, -1)
    .replace(
      /\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([0-7]{3})|(.))/gi,
      (_, x?: string, u?: string, long?: string, octal?: string, letter?: string) => {
        const hex = x ?? u ?? long;
        if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
        if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
        return ESCAPES[letter ?? ""] ?? letter ?? "";
      },
    );
}
