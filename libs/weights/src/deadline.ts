// A signal that aborts with another one or after some time, for the path that every range takes: what AbortSignal.any and
// AbortSignal.timeout give, without the weak references that they keep for the collector (a third of a range's JavaScript).
import { PlatformError } from "@pilotlight/errors";

export class Deadline {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal;
  readonly #timer: NodeJS.Timeout | undefined;
  #expired = false;

  /** Without `ms` only the outer signal aborts it, or `stop`. */
  constructor(outer: AbortSignal, ms?: number) {
    this.#outer = outer;
    if (outer.aborted) this.#follow();
    else outer.addEventListener("abort", this.#follow, { once: true });
    if (ms !== undefined) this.#timer = setTimeout(this.#expire, ms);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The time was over before anything else aborted it. */
  get expired(): boolean {
    return this.#expired;
  }

  /** Aborts it now. */
  stop(): void {
    this.#controller.abort(new PlatformError("cancelled", "not needed any more"));
  }

  /** Gives timer and listener back; the signal stays as it is. */
  end(): void {
    clearTimeout(this.#timer);
    this.#outer.removeEventListener("abort", this.#follow);
  }

  readonly #follow = (): void => this.#controller.abort(this.#outer.reason);

  readonly #expire = (): void => {
    if (this.signal.aborted) return;
    this.#expired = true;
    this.#controller.abort(new PlatformError("deadlineExceeded", "the time is over"));
  };
}
