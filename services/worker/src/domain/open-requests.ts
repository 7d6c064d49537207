// The requests that are not over: counted, waited for when the replica drains, and cut with a reason at the deadline.
import type { PlatformError } from "@pilotlight/errors";

export class OpenRequests {
  readonly #open = new Set<AbortController>();
  readonly #emptied = new Set<() => void>();

  get size(): number {
    return this.#open.size;
  }

  /** Notes a request. Call the result when it is over. */
  begin(controller: AbortController): () => void {
    this.#open.add(controller);
    return () => {
      if (!this.#open.delete(controller) || this.#open.size > 0) return;
      for (const resolve of this.#emptied) resolve();
      this.#emptied.clear();
    };
  }

  /** Resolves when no request is open. */
  empty(): Promise<void> {
    if (this.#open.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptied.add(resolve));
  }

  /** Ends every request with a reason. */
  cut(reason: PlatformError): void {
    for (const controller of this.#open) controller.abort(reason);
  }
}
