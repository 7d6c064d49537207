// The service's side of the analyst process: started by the first task, ended after a while without one.
import { type ChildProcess, fork } from "node:child_process";
import { ERROR_CODES, type ErrorCode, PlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import type {
  AnalystResult,
  AnalystSettings,
  AnalystTask,
  FileStatistics,
  FromAnalyst,
  Row,
  ToAnalyst,
  WrittenFile,
} from "./analyst-protocol.ts";

export type AnalystOptions = AnalystSettings & {
  /** The program's main file; started with ANALYST_ARGUMENT it is the analyst. */
  entry: string;
  /** How long it stays without a task. */
  idleMs: number;
};

/** The first argument of a process that is the analyst; the settings follow as JSON. */
export const ANALYST_ARGUMENT = "analyst";

type Waiting = {
  rows: (rows: Row[]) => void;
  done: (result: AnalystResult[keyof AnalystResult]) => void;
  failed: (error: PlatformError) => void;
};

export class Analyst {
  readonly #options: AnalystOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #log = logger("analyst");
  #process: ChildProcess | undefined;
  #idle: NodeJS.Timeout | undefined;
  #next = 1;

  constructor(options: AnalystOptions) {
    this.#options = options;
  }

  /** Turns a journal file into Parquet files, one for each hour and application, named by `prefix` and a number. */
  write(journal: string, number: number, prefix: string): Promise<WrittenFile[]> {
    return this.#run({ kind: "write", journal, number, prefix }) as Promise<AnalystResult["write"]>;
  }

  /** Merges Parquet files into one. */
  merge(files: string[], path: string): Promise<FileStatistics> {
    return this.#run({ kind: "merge", files, path }) as Promise<AnalystResult["merge"]>;
  }

  /** The newest `limit` rows that fulfil the condition, newest first, page by page. Throws `notFound` for a lost file. */
  async query(
    files: string[],
    condition: { where: string; parameters: (string | number | bigint)[] },
    limit: number,
    onRows: (rows: Row[]) => void,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#run({ kind: "query", files, ...condition, limit }, onRows, signal);
  }

  /** Runs a task to its end. Throws `unavailable` when the process ends in it. */
  #run(
    task: AnalystTask,
    onRows: (rows: Row[]) => void = () => {},
    signal?: AbortSignal,
  ): Promise<AnalystResult[keyof AnalystResult]> {
    const id = this.#next++;
    this.#process ??= this.#start();
    const process = this.#process;
    clearTimeout(this.#idle);
    return new Promise((resolve, reject) => {
      const cancel = () => process.send({ id, cancel: true } satisfies ToAnalyst, () => {});
      const end = () => {
        signal?.removeEventListener("abort", cancel);
        this.#waiting.delete(id);
        if (this.#waiting.size === 0)
          this.#idle = setTimeout(() => this.#stop(), this.#options.idleMs).unref();
      };
      this.#waiting.set(id, {
        rows: onRows,
        done: (result) => {
          end();
          resolve(result);
        },
        failed: (error) => {
          end();
          reject(signal?.aborted ? new PlatformError("cancelled", "the search was given up") : error);
        },
      });
      signal?.addEventListener("abort", cancel, { once: true });
      process.send({ id, task } satisfies ToAnalyst, () => {}); // a process that is gone says so by its exit
    });
  }

  close(): void {
    clearTimeout(this.#idle);
    this.#stop();
  }

  #start(): ChildProcess {
    const { entry, memoryBytesMax, threads, temporaryDirectory } = this.#options;
    const settings: AnalystSettings = { memoryBytesMax, threads, temporaryDirectory };
    const child = fork(entry, [ANALYST_ARGUMENT, JSON.stringify(settings)], {
      serialization: "advanced",
      env: {},
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    child.on("message", (message: FromAnalyst) => this.#take(message));
    child.on("error", () => {}); // a message to a process that is gone
    child.once("exit", (code, signal) => this.#lose(child, `the analyst process ended (${signal ?? code})`));
    return child;
  }

  #take(message: FromAnalyst): void {
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) return;
    if ("rows" in message) waiting.rows(message.rows);
    else if ("done" in message) waiting.done(message.done);
    else {
      const { code, message: text } = message.failed;
      waiting.failed(new PlatformError(code in ERROR_CODES ? (code as ErrorCode) : "internal", text));
    }
  }

  #lose(child: ChildProcess, why: string): void {
    if (this.#process !== child) return;
    this.#process = undefined;
    if (this.#waiting.size > 0)
      this.#log.warn("the analyst process ended in the middle of its work", { why });
    for (const { failed } of [...this.#waiting.values()]) {
      failed(
        new PlatformError("unavailable", why, {
          remedy: "Narrow the search, or raise analystMemoryBytesMax.",
        }),
      );
    }
  }

  #stop(): void {
    const child = this.#process;
    this.#process = undefined;
    child?.disconnect();
  }
}
