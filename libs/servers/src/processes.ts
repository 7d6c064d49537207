// Child processes that are servers: started with their output in a file, awaited until they answer, stopped politely
// and then for good. Commands that are run to their end for their output.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError } from "@pilotlight/errors";

export type CommandOptions = {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  timeoutMs?: number;
  uid?: number;
  gid?: number;
};

/** Runs a command to its end and gives its standard output. A failure names the command and the end of its output. */
export function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const { timeoutMs, ...rest } = options;
    execFile(
      command,
      args,
      { ...rest, timeout: timeoutMs ?? 600_000, maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        if (error === null) return resolve(stdout);
        const tail = `${stdout}\n${stderr}`.trim().split("\n").slice(-12).join("\n");
        reject(
          new PlatformError(
            "unavailable",
            `'${command} ${args.join(" ")}' failed: ${error.message.split("\n")[0]}\n${tail}`,
            { cause: error },
          ),
        );
      },
    );
  });
}

export type ServerProcessOptions = {
  name: string;
  command: string;
  args: readonly string[];
  logFile: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  uid?: number;
  gid?: number;
  /** Resolves to true once the server with this pid answers. */
  isReady: (pid: number) => Promise<boolean>;
  readyTimeoutMs: number;
  /** After SIGTERM; then SIGKILL. */
  stopTimeoutMs: number;
  stopSignal?: NodeJS.Signals;
};

export type ServerProcess = {
  readonly pid: number;
  /** Resolves when the process has ended, however. */
  readonly exited: Promise<void>;
  kill(signal: NodeJS.Signals): void;
  stop(): Promise<void>;
};

/** Starts a server and waits until it is ready. A server that ends before is an error with the end of its log. */
export async function startServerProcess(options: ServerProcessOptions): Promise<ServerProcess> {
  const log = openSync(options.logFile, "a");
  const child = spawn(options.command, options.args, {
    stdio: ["ignore", log, log],
    detached: true, // Ctrl-C in the terminal reaches only the supervisor, which stops the others in order
    ...(options.env === undefined ? {} : { env: options.env }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  });
  closeSync(log);
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  const server = serverOf(child, exited, options);
  const deadline = Date.now() + options.readyTimeoutMs;
  while (!(await options.isReady(server.pid).catch(() => false))) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) {
      throw new PlatformError(
        "unavailable",
        `${options.name} ended while starting:\n${tailOf(options.logFile)}`,
        {
          remedy: `See ${options.logFile}.`,
        },
      );
    }
    if (Date.now() > deadline) {
      await server.stop();
      throw new PlatformError(
        "deadlineExceeded",
        `${options.name} was not ready within ${options.readyTimeoutMs} ms:\n${tailOf(options.logFile)}`,
        {
          remedy: `See ${options.logFile}.`,
        },
      );
    }
    await sleep(20);
  }
  return server;
}

function serverOf(child: ChildProcess, exited: Promise<void>, options: ServerProcessOptions): ServerProcess {
  return {
    pid: child.pid ?? -1,
    exited,
    kill: (signal) => void child.kill(signal),
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill(options.stopSignal ?? "SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), options.stopTimeoutMs);
      await exited;
      clearTimeout(timer);
    },
  };
}

function tailOf(file: string): string {
  try {
    return readFileSync(file, "utf8").trim().split("\n").slice(-15).join("\n");
  } catch {
    return "(no log)";
  }
}

/** A free port on loopback. Somebody may take it before it is used: callers retry or report it. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
