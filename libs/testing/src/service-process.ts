// A service as a test starts it: the real process from its sources, configured by environment, killed as a machine would.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export type LogRecord = { level: string; component: string; msg: string } & Record<string, unknown>;

export type ServiceProcess = {
  readonly pid: number;
  /** Every line the service logged so far. */
  readonly lines: readonly LogRecord[];
  /** Resolves with the first line (past or future) that matches. */
  logged(match: (line: LogRecord) => boolean): Promise<LogRecord>;
  kill(signal: NodeJS.Signals): Promise<void>;
  /** The exit code, once it ends by itself; null when a signal ended it. */
  readonly exited: Promise<number | null>;
  /** SIGTERM; gives the exit code. */
  stop(): Promise<number | null>;
};

/**
 * Starts `services/<name>/src/main.ts` (`main` is its URL) and waits until it says it is ready. `environment` replaces the
 * test's own, apart from PATH and HOME. A service that ends before is an error with its output.
 */
export async function startServiceProcess(
  main: URL,
  environment: Record<string, string>,
): Promise<ServiceProcess> {
  const child = spawn(process.execPath, [fileURLToPath(main)], {
    env: { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const lines: LogRecord[] = [];
  const output: string[] = [];
  const waiting = new Set<() => void>();
  const collect = (line: string) => {
    output.push(line);
    try {
      lines.push(JSON.parse(line) as LogRecord);
    } catch {
      // a plain line: only for the error below
    }
    for (const check of waiting) check();
  };
  if (child.stdout !== null) createInterface({ input: child.stdout }).on("line", collect);
  if (child.stderr !== null) createInterface({ input: child.stderr }).on("line", collect);
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  const service = serviceOf(child, lines, waiting, exited);
  const gone = exited.then((code) => {
    throw new Error(`service ended with ${code} before it was ready:\n${output.slice(-20).join("\n")}`);
  });
  await Promise.race([
    service.logged((line) => line.component === "lifecycle" && line.msg === "ready"),
    gone,
  ]);
  gone.catch(() => {});
  return service;
}

function serviceOf(
  child: ChildProcess,
  lines: LogRecord[],
  waiting: Set<() => void>,
  exited: Promise<number | null>,
): ServiceProcess {
  return {
    pid: child.pid ?? -1,
    lines,
    exited,
    logged: (match) =>
      new Promise((resolve) => {
        const check = () => {
          const found = lines.find(match);
          if (found === undefined) return;
          waiting.delete(check);
          resolve(found);
        };
        waiting.add(check);
        check();
      }),
    async kill(signal) {
      child.kill(signal);
      await exited;
    },
    async stop() {
      child.kill("SIGTERM");
      return exited;
    },
  };
}
