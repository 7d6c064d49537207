// The supervisor: keeps processes running, with their output in files.
//   S1. A process that ends by itself is started again, after a delay that grows while it keeps ending.
//   S2. Listening sockets of public doors are opened here and handed over (LISTEN_FDS), so that while a killed service comes
//       back its clients wait in the backlog and none is refused.
//   S3. Output goes to files, not pipes: a process outlives the supervisor without losing a line or dying of SIGPIPE.
//   S4. Every pid is noted with its start time; the next supervisor ends what a killed one left behind, and nothing else.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

export type ProcessSpec = {
  name: string;
  command: string;
  args: readonly string[];
  env: Record<string, string>;
  /** Public doors whose sockets outlive the process. */
  sockets?: readonly { name: string; host: string; port: number }[];
  /** Answers 200 when the process is ready. */
  readyUrl: string;
};

export type SupervisorOptions = {
  logDir: string;
  /** Where pids are noted. */
  pidFile: string;
  readyTimeoutMs: number;
  stopTimeoutMs: number;
  restart: {
    initialDelayMs: number;
    delayMsMax: number;
    /** A process that ran this long starts from the initial delay again. */
    stableMs: number;
  };
  onEvent?: (event: { kind: "started" | "ended" | "restarting"; name: string; detail: string }) => void;
};

type Handle = { fd: number; close(): void };
type Supervised = {
  spec: ProcessSpec;
  handles: Handle[];
  child: ChildProcess | undefined;
  failures: number;
  startedAt: number;
  /** It was ready at least once: what ends now can start again. */
  proven: boolean;
  wanted: boolean;
  timer: NodeJS.Timeout | undefined;
};

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #processes = new Map<string, Supervised>();

  constructor(options: SupervisorOptions) {
    this.#options = options;
    mkdirSync(options.logDir, { recursive: true });
  }

  /** Starts a process; does not wait for it. */
  start(spec: ProcessSpec): void {
    const handles = (spec.sockets ?? []).map((socket) => openSocket(socket.host, socket.port));
    const supervised: Supervised = {
      spec,
      handles,
      child: undefined,
      failures: 0,
      startedAt: 0,
      proven: false,
      wanted: true,
      timer: undefined,
    };
    this.#processes.set(spec.name, supervised);
    this.#spawn(supervised);
  }

  /**
   * Waits until every process says that it is ready. Throws with its last words for one that ends before it ever was, or is
   * not in time.
   */
  async ready(): Promise<void> {
    await Promise.all([...this.#processes.values()].map((supervised) => this.#awaitReady(supervised)));
  }

  pidOf(name: string): number | undefined {
    return this.#processes.get(name)?.child?.pid;
  }

  names(): string[] {
    return [...this.#processes.keys()];
  }

  /** Sends a signal, as an operator or a fault would. */
  kill(name: string, signal: NodeJS.Signals): void {
    this.#processes.get(name)?.child?.kill(signal);
  }

  /** Ends a process and starts it again, for a changed program. */
  async restart(name: string): Promise<void> {
    const supervised = this.#processes.get(name);
    if (supervised === undefined) throw new PlatformError("notFound", `there is no process '${name}'`);
    supervised.failures = 0;
    supervised.proven = false;
    await this.#end(supervised);
    supervised.wanted = true;
    this.#spawn(supervised);
  }

  /** Ends processes in the given order, group by group; those not named come last, together. */
  async stop(order: readonly (readonly string[])[]): Promise<void> {
    const named = new Set(order.flat());
    const rest = this.names().filter((name) => !named.has(name));
    for (const group of [...order, rest]) {
      await Promise.all(
        group.flatMap((name) => this.#processes.get(name) ?? []).map((supervised) => this.#end(supervised)),
      );
    }
    for (const { handles } of this.#processes.values()) for (const handle of handles) handle.close();
    this.#processes.clear();
    this.#notePids();
  }

  #spawn(supervised: Supervised): void {
    const { spec, handles } = supervised;
    const log = openSync(this.#logFile(spec.name), "a");
    const sockets =
      handles.length === 0
        ? {}
        : {
            LISTEN_FDS: String(handles.length),
            LISTEN_FDNAMES: (spec.sockets ?? []).map((socket) => socket.name).join(":"),
          };
    const child = spawn(spec.command, spec.args, {
      env: { ...spec.env, ...sockets },
      stdio: ["ignore", log, log, ...handles.map((handle) => handle.fd)],
      detached: true, // Ctrl-C is ours alone: we end the others in order
    });
    closeSync(log);
    supervised.child = child;
    supervised.startedAt = Date.now();
    this.#notePids();
    this.#tell("started", spec.name, `pid ${child.pid}`);
    child.once("error", () => this.#ended(supervised, "could not be started"));
    child.once("exit", (code, signal) => this.#ended(supervised, signal ?? `exit code ${code}`));
  }

  #ended(supervised: Supervised, how: string): void {
    supervised.child = undefined;
    this.#notePids();
    if (!supervised.wanted) return;
    const { initialDelayMs, delayMsMax, stableMs } = this.#options.restart;
    supervised.failures = Date.now() - supervised.startedAt > stableMs ? 1 : supervised.failures + 1;
    const delayMs = Math.min(delayMsMax, initialDelayMs * 2 ** (supervised.failures - 1));
    this.#tell("restarting", supervised.spec.name, `${how}; again in ${delayMs} ms`);
    supervised.timer = setTimeout(() => this.#spawn(supervised), delayMs);
  }

  async #end(supervised: Supervised): Promise<void> {
    supervised.wanted = false;
    clearTimeout(supervised.timer);
    const { child } = supervised;
    if (child === undefined || child.exitCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    const force = setTimeout(() => child.kill("SIGKILL"), this.#options.stopTimeoutMs);
    await gone;
    clearTimeout(force);
    this.#tell("ended", supervised.spec.name, "stopped");
  }

  async #awaitReady(supervised: Supervised): Promise<void> {
    const { name, readyUrl } = supervised.spec;
    const { readyTimeoutMs } = this.#options;
    const deadline = Date.now() + readyTimeoutMs;
    const see = { remedy: `See ${this.#logFile(name)}.` };
    for (;;) {
      const why = await notReady(readyUrl);
      if (why === undefined) {
        supervised.proven = true;
        return;
      }
      if (!supervised.proven && supervised.failures > 0)
        throw new PlatformError("unavailable", `${name} cannot start: ${this.#lastWords(name)}`, see);
      if (Date.now() > deadline)
        throw new PlatformError(
          "deadlineExceeded",
          `${name} is not ready after ${readyTimeoutMs} ms: ${why}; ${this.#lastWords(name)}`,
          see,
        );
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  #logFile(name: string): string {
    return join(this.#options.logDir, `${name}.log`);
  }

  /** What the process said last of what is wrong, otherwise the end of its output. */
  #lastWords(name: string): string {
    try {
      const lines = readFileSync(this.#logFile(name), "utf8").trim().split("\n").slice(-TAIL_LINES);
      return lines.map(complaintIn).findLast((words) => words !== undefined) ?? lines.slice(-1).join("");
    } catch {
      return "it said nothing";
    }
  }

  #notePids(): void {
    const pids = [...this.#processes.values()].flatMap(({ spec, child }) =>
      child?.pid === undefined
        ? []
        : [{ name: spec.name, pid: child.pid, startTime: processStartTime(child.pid) }],
    );
    writeFileSync(this.#options.pidFile, JSON.stringify(pids));
  }

  #tell(kind: "started" | "ended" | "restarting", name: string, detail: string): void {
    this.#options.onEvent?.({ kind, name, detail });
  }
}

/** Lines of a log that are looked at for a reason. */
const TAIL_LINES = 50;

const complaint = z.object({
  level: z.enum(["warn", "error", "fatal"]),
  msg: z.string(),
  error: z.object({ message: z.string(), remedy: z.string().optional() }).optional(),
});

/** A line's complaint with its remedy; undefined when it is none. */
function complaintIn(line: string): string | undefined {
  try {
    const { msg, error } = complaint.parse(JSON.parse(line));
    return error === undefined ? msg : [error.message, error.remedy ?? ""].join(" ").trim();
  } catch {
    return undefined;
  }
}

async function notReady(url: string): Promise<string | undefined> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(3_000) });
    if (response.ok) return undefined;
    return await response.text();
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * A bound socket that this process never listens on: the first child's `listen` makes it a listening one, and since the
 * socket lives as long as any copy of it, the kernel queues connections while no child runs. Node has no public call that binds
 * without listening; `_createServerHandle` is what its own cluster module uses.
 */
function openSocket(host: string, port: number): Handle {
  type Internal = {
    _createServerHandle(
      host: string,
      port: number,
      type: number,
      fd: undefined,
      flags: number,
    ): Handle | number;
  };
  const handle = (net as unknown as Internal)._createServerHandle(host, port, 4, undefined, 0);
  if (typeof handle === "number") {
    throw new PlatformError("alreadyExists", `${host}:${port} is taken`, {
      remedy: "Stop the other program, or configure another port.",
    });
  }
  return handle;
}

/** Field 22 of /proc/PID/stat: with the pid it names a process for ever (proc(5)). */
function processStartTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

/** Ends what an earlier supervisor left behind when it was killed. Gives the names. */
export async function endLeftovers(pidFile: string, timeoutMs: number): Promise<string[]> {
  let noted: { name: string; pid: number; startTime: string | undefined }[];
  try {
    noted = JSON.parse(readFileSync(pidFile, "utf8"));
  } catch {
    return [];
  }
  const alive = noted.filter(
    ({ pid, startTime }) => startTime !== undefined && processStartTime(pid) === startTime,
  );
  for (const { pid } of alive) process.kill(pid, "SIGTERM");
  const deadline = Date.now() + timeoutMs;
  const still = () => alive.filter(({ pid, startTime }) => processStartTime(pid) === startTime);
  while (still().length > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
  for (const { pid } of still()) process.kill(pid, "SIGKILL");
  return alive.map(({ name }) => name);
}
