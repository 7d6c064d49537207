// A lock that excludes every other process and dies with its holder. It is SQLite's own lock on an empty database:
// the kernel frees it when a process is killed, so there are no stale locks to judge. 17 µs a turn. The work done
// under it is synchronous and short (a stat and a rename), so a holder never waits for anything.
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError } from "@pilotlight/errors";

const SQLITE_BUSY = 5;
const RETRY_MS_MAX = 5;
/** A holder keeps it for well under a millisecond; this long means a hung file system. */
const WAIT_MS_MAX = 20_000;

export class FileLock {
  readonly #path: string;
  #database: DatabaseSync | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** Runs `work` while nobody else, in this or another process, runs theirs. `work` must not be async. */
  async run<T>(work: () => T): Promise<T> {
    await this.#acquire();
    try {
      return work();
    } finally {
      this.#open().exec("COMMIT");
    }
  }

  close(): void {
    this.#database?.close();
    this.#database = undefined;
  }

  async #acquire(): Promise<void> {
    const deadline = performance.now() + WAIT_MS_MAX;
    while (true) {
      try {
        this.#open().exec("BEGIN EXCLUSIVE");
        return;
      } catch (error) {
        if ((error as { errcode?: number }).errcode !== SQLITE_BUSY) throw error;
        if (performance.now() > deadline) {
          throw new PlatformError("unavailable", `${this.#path} has been locked for ${WAIT_MS_MAX} ms`, {
            cause: error,
            remedy: "Check which process hangs on this directory.",
          });
        }
        await sleep(Math.random() * RETRY_MS_MAX);
      }
    }
  }

  #open(): DatabaseSync {
    this.#database ??= new DatabaseSync(this.#path, { timeout: 0 });
    return this.#database;
  }
}
