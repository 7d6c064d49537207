// Wakes everybody who waits for a change of something: the readers of a load, for instance.

export class Bell {
  #waiting: PromiseWithResolvers<void> = Promise.withResolvers();

  /** Resolves with the next ring. */
  next(): Promise<void> {
    return this.#waiting.promise;
  }

  ring(): void {
    const { resolve } = this.#waiting;
    this.#waiting = Promise.withResolvers();
    resolve();
  }
}
