// The buffers that chunks are cut into. They bound the work in flight: who fills them waits while too many are out.

export class BufferPool {
  readonly #bytes: number;
  readonly #outMax: number;
  readonly #idle: Buffer[] = [];
  #out = 0;
  #waiting: Array<() => void> = [];

  constructor(bytes: number, outMax: number) {
    this.#bytes = bytes;
    this.#outMax = outMax;
  }

  /** Never waits: one push of the parser needs a few at most. `belowLimit` is where the waiting is done. */
  acquire(): Buffer {
    this.#out++;
    return this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.#bytes);
  }

  release(buffer: Buffer): void {
    this.#out--;
    if (this.#idle.length < this.#outMax) this.#idle.push(buffer);
    if (this.#out < this.#outMax) {
      for (const resume of this.#waiting) resume();
      this.#waiting = [];
    }
  }

  async belowLimit(): Promise<void> {
    while (this.#out >= this.#outMax) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
