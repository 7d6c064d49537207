// Work that several callers want at the same time is done once, and given up when the last of them has gone.
type Work<T> = { result: Promise<T>; stop: AbortController; callers: number };

export class SharedWork<T> {
  readonly #running = new Map<string, Work<T>>();

  /** Whether anything is being done. */
  get busy(): boolean {
    return this.#running.size > 0;
  }

  /** Joins the work under this name, or begins it. Rejects as the work does, or with the signal's reason. */
  async join(name: string, work: (signal: AbortSignal) => Promise<T>, signal: AbortSignal): Promise<T> {
    signal.throwIfAborted();
    const shared = this.#running.get(name) ?? this.#begin(name, work);
    shared.callers++;
    const gone = Promise.withResolvers<never>();
    const leave = () => gone.reject(signal.reason);
    signal.addEventListener("abort", leave, { once: true });
    try {
      return await Promise.race([shared.result, gone.promise]);
    } finally {
      signal.removeEventListener("abort", leave);
      shared.callers--;
      if (shared.callers === 0) shared.stop.abort();
    }
  }

  #begin(name: string, work: (signal: AbortSignal) => Promise<T>): Work<T> {
    const stop = new AbortController();
    const result = work(stop.signal).finally(() => {
      if (this.#running.get(name)?.stop === stop) this.#running.delete(name);
    });
    result.catch(() => undefined);
    // Who comes while it is being given up begins anew.
    stop.signal.addEventListener("abort", () => {
      if (this.#running.get(name)?.stop === stop) this.#running.delete(name);
    });
    const shared = { result, stop, callers: 0 };
    this.#running.set(name, shared);
    return shared;
  }
}
