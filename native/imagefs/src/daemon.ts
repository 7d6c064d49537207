// The connection to the imagefs processes of one cache directory: started when nobody serves it, found again when the
// handler was restarted. Requests and answers are JSON lines (rust/control.rs is the other side).
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { ERROR_CODES, type ErrorCode, PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import type { ImagefsTimes } from "./times.ts";

const CONNECT_INTERVAL_MS = 20;
const CALL_ATTEMPTS_MAX = 4;

const run = promisify(execFile);

const failureSchema = z.object({ code: z.string(), message: z.string() });
const lineSchema = z.union([
  z.object({ id: z.number(), ok: z.unknown() }),
  z.object({ id: z.number().nullable(), error: failureSchema }),
  z.object({ event: z.literal("locate"), key: z.string(), pack: z.string() }),
]);

type Pending = { resolve: (value: unknown) => void; reject: (error: PlatformError) => void };

export type DaemonOptions = {
  binary: string;
  cacheDir: string;
  cacheBytesMax: number;
  times: Pick<ImagefsTimes, "readDeadlineMs" | "startTimeoutMs" | "callTimeoutMs" | "stopTimeoutMs">;
  blockDevices: boolean;
  /** Asked for the place of a pack whose location is unknown or expired. */
  onLocate: (key: string, pack: string) => void;
};

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #socket: Promise<Socket> | undefined;
  #closed = false;
  #stopping = false;

  constructor(options: DaemonOptions) {
    this.#options = options;
  }

  /**
   * Calls an operation; starts the processes first if need be. A handler that dies under the call is asked again when it is
   * back: all operations may be repeated. Throws what the other side reports, or `unavailable`.
   */
  async call(op: string, fields: Record<string, unknown> = {}): Promise<unknown> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#callOnce(op, fields);
      } catch (error) {
        if (!(error instanceof HandlerGone) || attempt === CALL_ATTEMPTS_MAX || op === "stop") throw error;
      }
    }
  }

  /**
   * Ends the processes, and waits until they are gone; takes away what they left if they were killed. What is called
   * meanwhile or later fails, and starts nothing.
   */
  async stop(): Promise<void> {
    this.#stopping = true;
    const { binary, cacheDir, times } = this.#options;
    for (let attempt = 1; attempt <= CALL_ATTEMPTS_MAX && (await this.isRunning()); attempt++) {
      // The answer may get lost with the process that was asked to end; or a handler died just before.
      await this.#callOnce("stop", {}).catch((error: unknown) => {
        if (!(error instanceof HandlerGone)) throw error;
      });
      const deadline = performance.now() + times.stopTimeoutMs;
      while (performance.now() < deadline && (await this.isRunning())) await sleep(CONNECT_INTERVAL_MS);
    }
    await this.close();
    // A cache directory that was never made, or is gone, holds no mounts.
    if (existsSync(cacheDir)) await run(binary, ["clear", "--cache", cacheDir]).catch(() => undefined);
  }

  async #callOnce(op: string, fields: Record<string, unknown>): Promise<unknown> {
    const { callTimeoutMs } = this.#options.times;
    // Places of packs are of no use to processes that do not know the image.
    const socket = await this.#connected(op !== "locations");
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    const timer = setTimeout(() => {
      this.#settle(id)?.reject(
        new PlatformError("deadlineExceeded", `imagefs did not answer ${op} in ${callTimeoutMs} ms`),
      );
    }, callTimeoutMs);
    socket.write(`${JSON.stringify({ id, op, ...fields })}\n`);
    return answer.finally(() => clearTimeout(timer));
  }

  /** Whether somebody serves the cache directory, without starting it. */
  async isRunning(): Promise<boolean> {
    const socket = await tryConnect(this.#socketPath);
    socket?.destroy();
    return socket !== undefined;
  }

  /** Leaves the processes running: mounts outlive their parent. */
  async close(): Promise<void> {
    this.#closed = true;
    const socket = await this.#socket?.catch(() => undefined);
    socket?.destroy();
  }

  get #socketPath(): string {
    return join(this.#options.cacheDir, "control.sock");
  }

  async #connected(mayStart: boolean): Promise<Socket> {
    if (this.#closed) throw new PlatformError("cancelled", "this imagefs handle is closed");
    const opened = this.#socket;
    if (opened !== undefined) {
      try {
        return await opened;
      } catch (error) {
        // Who may start the processes does not fail with one who only looked for them.
        if (!mayStart || !(error instanceof HandlerGone)) throw error;
        return this.#connected(mayStart);
      }
    }
    const opening = this.#open(mayStart);
    this.#socket = opening;
    return opening.catch((error: unknown) => {
      if (this.#socket === opening) this.#socket = undefined;
      throw error;
    });
  }

  async #open(mayStart: boolean): Promise<Socket> {
    const found = await tryConnect(this.#socketPath);
    // A question that was under way while everything was stopped must not start it again.
    if (found === undefined && (!mayStart || this.#stopping)) throw new HandlerGone();
    const socket = found ?? (await this.#start());
    socket.once("close", () => {
      this.#socket = undefined;
      for (const id of [...this.#pending.keys()]) {
        this.#settle(id)?.reject(new HandlerGone());
      }
      // Stay in reach of its questions as long as this handle lives.
      void this.#reconnect();
    });
    socket.unref();
    createInterface({ input: socket })
      .on("line", (line) => this.#onLine(line))
      // The interface repeats the socket's errors.
      .on("error", () => undefined);
    return socket;
  }

  /** Only to processes that are there: the last handle must not start what was stopped on purpose, or killed. */
  async #reconnect(): Promise<void> {
    if (!this.#closed) await this.#connected(false).catch(() => undefined);
  }

  async #start(): Promise<Socket> {
    const { binary, cacheDir, cacheBytesMax, times, blockDevices } = this.#options;
    await mkdir(cacheDir, { recursive: true });
    const log = join(cacheDir, "imagefs.log");
    const output = openSync(log, "a");
    const limits = [
      "--cache-bytes-max",
      String(cacheBytesMax),
      "--read-deadline-ms",
      String(times.readDeadlineMs),
    ];
    if (blockDevices) limits.push("--block-devices", "true");
    const child = spawn(binary, ["serve", "--cache", cacheDir, ...limits], {
      detached: true,
      stdio: ["ignore", output, output],
    });
    closeSync(output);
    let ended: string | undefined;
    child.once("error", (error) => {
      ended = error.message;
    });
    child.once("exit", (code, signal) => {
      // 3: another process was faster, and serves.
      if (code !== 3) ended = `it ended with ${signal ?? code}`;
    });
    child.unref();
    const deadline = performance.now() + times.startTimeoutMs;
    while (performance.now() < deadline && ended === undefined) {
      const socket = await tryConnect(this.#socketPath);
      if (socket !== undefined) return socket;
      await sleep(CONNECT_INTERVAL_MS);
    }
    const tail = (await readFile(log, "utf8").catch(() => "")).trim().split("\n").slice(-3).join("; ");
    throw new PlatformError(
      "unavailable",
      `imagefs did not start: ${ended ?? "no answer"}${tail === "" ? "" : ` (${tail})`}`,
      {
        remedy: `See ${log}.`,
      },
    );
  }

  #onLine(line: string): void {
    const parsed = lineSchema.safeParse(safeJson(line));
    if (!parsed.success) return;
    const message = parsed.data;
    if ("event" in message) this.#options.onLocate(message.key, message.pack);
    else if (message.id === null) return;
    else if ("error" in message) this.#settle(message.id)?.reject(platformError(message.error));
    else this.#settle(message.id)?.resolve(message.ok);
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }
}

class HandlerGone extends PlatformError {
  constructor() {
    super("unavailable", "the imagefs handler ended", { remedy: "It restarts by itself: try again." });
  }
}

function platformError({ code, message }: z.infer<typeof failureSchema>): PlatformError {
  return new PlatformError(code in ERROR_CODES ? (code as ErrorCode) : "internal", `imagefs: ${message}`);
}

async function tryConnect(path: string): Promise<Socket | undefined> {
  const socket = connect(path);
  socket.on("error", () => undefined);
  try {
    await once(socket, "connect");
    return socket;
  } catch {
    socket.destroy();
    return undefined;
  }
}

function safeJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
