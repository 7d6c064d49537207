// How many of a kind at once, and how many may wait (I10).
import { PlatformError } from "@pilotlight/errors";

export class Admission {
  readonly #what: string;
  readonly #atOnceMax: number;
  readonly #waitingMax: number;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(what: string, atOnceMax: number, waitingMax: number) {
    this.#what = what;
    this.#atOnceMax = atOnceMax;
    this.#waitingMax = waitingMax;
  }

  /** Enters at once or not at all; the result leaves again. Throws `resourceExhausted`. */
  enter(): () => void {
    if (this.#running >= this.#atOnceMax) throw this.#full();
    this.#running++;
    return () => this.#leave();
  }

  /** Runs `work` when there is room. Throws `resourceExhausted` when too many wait already. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#atOnceMax) {
      if (this.#waiting.length >= this.#waitingMax) throw this.#full();
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#running++;
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  /** The place goes to the next that waits, if any. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#running--;
    else next();
  }

  #full(): PlatformError {
    return new PlatformError("resourceExhausted", `too many ${this.#what} at once (${this.#atOnceMax})`, {
      remedy: "Try again in a moment.",
      retryAfterMs: 1_000,
    });
  }
}
