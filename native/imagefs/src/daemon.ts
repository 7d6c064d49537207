// The connection to the imagefs processes of one cache directory: started when nobody serves it, found again when the
// handler was restarted. Requests and answers are JSON lines (rust/control.rs is the other side).
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { ERROR_CODES, type ErrorCode, PlatformError } from "@pilotlight/errors";
import { z } from "zod";

/** The processes are up within milliseconds; a loaded machine may take longer. */
const START_TIMEOUT_MS = 10_000;
const CONNECT_INTERVAL_MS = 20;
/** Mounting answers within milliseconds; an unmount may wait for the kernel. */
const CALL_TIMEOUT_MS = 30_000;

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
  /** Asked for the place of a pack whose location is unknown or expired. */
  onLocate: (key: string, pack: string) => void;
};

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #socket: Promise<Socket> | undefined;
  #closed = false;

  constructor(options: DaemonOptions) {
    this.#options = options;
  }

  /** Calls an operation; starts the processes first if need be. Throws what the other side reports, or `unavailable`. */
  async call(op: string, fields: Record<string, unknown> = {}): Promise<unknown> {
    const socket = await this.#connected();
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    const timer = setTimeout(() => {
      this.#settle(id)?.reject(
        new PlatformError("deadlineExceeded", `imagefs did not answer ${op} in ${CALL_TIMEOUT_MS} ms`),
      );
    }, CALL_TIMEOUT_MS);
    socket.write(`${JSON.stringify({ id, op, ...fields })}\n`);
    return answer.finally(() => clearTimeout(timer));
  }

  /** Whether somebody serves the cache directory, without starting it. */
  async isRunning(): Promise<boolean> {
    if (this.#socket !== undefined) return true;
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

  #connected(): Promise<Socket> {
    if (this.#closed) throw new PlatformError("cancelled", "this imagefs handle is closed");
    this.#socket ??= this.#open().catch((error: unknown) => {
      this.#socket = undefined;
      throw error;
    });
    return this.#socket;
  }

  async #open(): Promise<Socket> {
    const socket = (await tryConnect(this.#socketPath)) ?? (await this.#start());
    socket.once("close", () => {
      this.#socket = undefined;
      for (const id of [...this.#pending.keys()]) {
        this.#settle(id)?.reject(
          new PlatformError("unavailable", "the imagefs handler ended", {
            remedy: "It restarts by itself: try again.",
          }),
        );
      }
      // Stay in reach of its questions as long as this handle lives.
      if (!this.#closed) void this.#connected().catch(() => undefined);
    });
    socket.on("error", () => undefined);
    socket.unref();
    createInterface({ input: socket }).on("line", (line) => this.#onLine(line));
    return socket;
  }

  async #start(): Promise<Socket> {
    const { binary, cacheDir, cacheBytesMax } = this.#options;
    await mkdir(cacheDir, { recursive: true });
    const log = join(cacheDir, "imagefs.log");
    const output = openSync(log, "a");
    const child = spawn(binary, ["serve", "--cache", cacheDir, "--cache-bytes-max", String(cacheBytesMax)], {
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
    for (
      let waitedMs = 0;
      waitedMs < START_TIMEOUT_MS && ended === undefined;
      waitedMs += CONNECT_INTERVAL_MS
    ) {
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

function platformError({ code, message }: z.infer<typeof failureSchema>): PlatformError {
  return new PlatformError(code in ERROR_CODES ? (code as ErrorCode) : "internal", `imagefs: ${message}`);
}

async function tryConnect(path: string): Promise<Socket | undefined> {
  const socket = connect(path);
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
