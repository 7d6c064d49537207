// A Bloom filter: says "surely not here" for most of what is not here. Two halves of a 64-bit FNV-1a hash, combined as in
// Kirsch and Mitzenmacher, "Less Hashing, Same Performance" (2006).

const BITS_PER_VALUE = 10;
/** k = bits per value · ln 2: about 1% false positives. */
const PROBES = 7;
const BYTES_MIN = 8;

export class Bloom {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** A filter that holds these values. */
  static of(values: readonly string[]): Bloom {
    const bloom = new Bloom(
      new Uint8Array(Math.max(BYTES_MIN, Math.ceil((values.length * BITS_PER_VALUE) / 8))),
    );
    for (const value of values)
      for (const bit of bloom.#bits(value))
        bloom.bytes[bit >>> 3] = (bloom.bytes[bit >>> 3] ?? 0) | (1 << (bit & 7));
    return bloom;
  }

  /** False: surely not in it. */
  mayHave(value: string): boolean {
    for (const bit of this.#bits(value))
      if (((this.bytes[bit >>> 3] ?? 0) & (1 << (bit & 7))) === 0) return false;
    return true;
  }

  *#bits(value: string): Generator<number> {
    const size = this.bytes.length * 8;
    const [high, low] = hash(value);
    for (let i = 0; i < PROBES; i++) yield ((high + Math.imul(i, low)) >>> 0) % size;
  }
}

/** FNV-1a over UTF-8 with two different offset bases, 32 bits each. */
function hash(value: string): [number, number] {
  let high = 0x811c9dc5;
  let low = 0x01000193 ^ 0x9e3779b9;
  for (const byte of Buffer.from(value, "utf8")) {
    high = Math.imul(high ^ byte, 0x01000193);
    low = Math.imul(low ^ byte, 0x85ebca6b);
    low ^= low >>> 13;
  }
  return [high >>> 0, (low | 1) >>> 0];
}
