// Variable-length numbers and length-prefixed bytes, for the layer record. Unsigned LEB128; signed numbers as zigzag.
import { PlatformError } from "@pilotlight/errors";

export class ByteWriter {
  #buffer = Buffer.alloc(1 << 16);
  #length = 0;

  uint(value: number): void {
    this.#reserve(10);
    let rest = value;
    while (rest >= 0x80) {
      this.#buffer[this.#length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#buffer[this.#length++] = rest;
  }

  int(value: number): void {
    this.uint(value < 0 ? -value * 2 - 1 : value * 2);
  }

  bytes(value: Buffer): void {
    this.uint(value.length);
    this.raw(value);
  }

  raw(value: Buffer): void {
    this.#reserve(value.length);
    value.copy(this.#buffer, this.#length);
    this.#length += value.length;
  }

  /** A byte string (latin1). */
  string(value: string): void {
    this.uint(value.length);
    this.#reserve(value.length);
    this.#length += this.#buffer.write(value, this.#length, "latin1");
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const grown = Buffer.alloc(Math.max(this.#buffer.length * 2, this.#length + bytes));
    this.#buffer.copy(grown);
    this.#buffer = grown;
  }
}

export class ByteReader {
  readonly #buffer: Buffer;
  #position = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  uint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 8; i++) {
      const byte = this.#buffer[this.#position++];
      if (byte === undefined) throw truncated();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) throw truncated();
        return value;
      }
      scale *= 0x80;
    }
    throw truncated();
  }

  int(): number {
    const value = this.uint();
    return value % 2 === 1 ? -(value + 1) / 2 : value / 2;
  }

  bytes(): Buffer {
    return this.raw(this.uint());
  }

  raw(length: number): Buffer {
    if (this.#position + length > this.#buffer.length) throw truncated();
    this.#position += length;
    return this.#buffer.subarray(this.#position - length, this.#position);
  }

  string(): string {
    const bytes = this.bytes();
    return bytes.toString("latin1");
  }

  /** A count of things that take at least `bytesEach`: bounds what a damaged record can make us allocate. */
  count(bytesEach: number): number {
    const value = this.uint();
    if (value * bytesEach > this.#buffer.length - this.#position) throw truncated();
    return value;
  }

  end(): void {
    if (this.#position !== this.#buffer.length) throw truncated();
  }
}

function truncated(): PlatformError {
  return new PlatformError("corrupt", "a layer record is truncated or malformed", {
    remedy: "Delete the record from the bucket's layers/ folder; the next conversion writes it again.",
  });
}
