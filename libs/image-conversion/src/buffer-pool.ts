// The buffers that chunks are cut into, and that packs are collected in, used again and again. Full ones bound the work in
// flight: who fills them waits while too many are being worked on. Buffers that are still being filled do not count, or filling
// could never end.
export class BufferPool {
  readonly #bytes: number;
  readonly #busyMax: number;
  readonly #idle: Buffer[] = [];
  #busy = 0;
  #waiting: Array<() => void> = [];

  constructor(bytes: number, busyMax: number) {
    this.#bytes = bytes;
    this.#busyMax = busyMax;
  }

  /** A buffer to fill. Never waits: the scanner stops at the first full one, and who feeds it waits then. */
  acquire(): Buffer {
    return this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.#bytes);
  }

  /** A buffer is full and being worked on, until it is released. */
  busy(): void {
    this.#busy++;
  }

  /** The work is over. Without a buffer: somebody may still be reading it, so it is left to the garbage collector. */
  release(buffer?: Buffer): void {
    this.#busy--;
    // A push may take some more: what is thrown away is only freed when the garbage is collected.
    if (buffer !== undefined && this.#idle.length < 2 * this.#busyMax) this.#idle.push(buffer);
    if (this.#busy < this.#busyMax) {
      for (const resume of this.#waiting) resume();
      this.#waiting = [];
    }
  }

  /** Gives the memory of idle buffers back now, not when the garbage is collected some time: what comes next needs memory too. */
  freeIdle(): void {
    for (const { buffer } of this.#idle) (buffer as ArrayBuffer).transfer(0);
    this.#idle.length = 0;
  }

  async belowLimit(): Promise<void> {
    while (this.#busy >= this.#busyMax) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
