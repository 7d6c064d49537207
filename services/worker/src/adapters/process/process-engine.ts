// Any HTTP server as the engine: a child process of the worker that speaks the OpenAI API itself (vLLM, SGLang, business
// logic). The worker starts it, waits until it is well, passes requests through, and ends it.
//
//   P1. What the program does not know of is not sent: the platform's internal field, and aliases of its model.
//   P2. The child never outlives the worker by more than its grace.
import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { type ProcessEngine as ProcessSpec, ReplicaPhase } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { logger, outgoingHeaders } from "@pilotlight/telemetry";
import { type Dispatcher, Pool } from "undici";
import type { Answer, EngineCall, EngineLoad, ReplicaEngine } from "../../engine.ts";

export type ProcessSettings = {
  spec: ProcessSpec;
  modelName: string;
  /** What `{modelPath}` stands for. */
  modelPath: string;
  /** Of the child, beside what the specification adds. */
  environment: Readonly<NodeJS.ProcessEnv>;
};

const HEALTH_INTERVAL_MS = 200;
const HEALTH_TIMEOUT_MS = 2_000;
const READY_TIMEOUT_DEFAULT_MS = 600_000;
const KILL_GRACE_MS = 10_000;
const SEQUENCES_DEFAULT = 64;
/** Last lines of the program, for the message when it ends. */
const TAIL_LINES = 5;
/** Longer lines of the program's output are cut. */
const LINE_LENGTH_MAX = 16_384;

type Running = { child: ChildProcess; pool: Pool; tail: string[]; ended: Promise<string> };

export class ProcessReplicaEngine implements ReplicaEngine {
  readonly inFlightMax: number;
  readonly #settings: ProcessSettings;
  #running: Running | null = null;
  #open = 0;
  #isClosing = false;

  constructor(settings: ProcessSettings) {
    this.#settings = settings;
    this.inFlightMax = settings.spec.sequencesMax || SEQUENCES_DEFAULT;
  }

  async start(mark: (phase: ReplicaPhase) => void): Promise<void> {
    const { spec } = this.#settings;
    const port = spec.port || (await freePort());
    const running = this.#spawn(port);
    this.#running = running;
    await this.#untilWell(running);
    mark(ReplicaPhase.ENGINE_READY);
  }

  chat(call: EngineCall): Promise<Answer> {
    return this.#pass("/v1/chat/completions", call);
  }

  complete(call: EngineCall): Promise<Answer> {
    return this.#pass("/v1/completions", call);
  }

  embed(call: EngineCall): Promise<Answer> {
    return this.#pass("/v1/embeddings", call);
  }

  load(): EngineLoad {
    return {
      running: this.#open,
      waiting: 0,
      kvTokensUsed: 0,
      kvTokensMax: 0,
      promptTokensTotal: 0,
      outputTokensTotal: 0,
    };
  }

  onFailure(listener: (error: PlatformError) => void): void {
    const running = this.#running;
    void running?.ended.then((how) => {
      if (!this.#isClosing) listener(endedError(how, running.tail));
    });
  }

  /** The whole process group stands still; what it holds stays where it is. */
  async quiesce(): Promise<void> {
    this.#signal("SIGSTOP");
  }

  async resume(): Promise<void> {
    this.#signal("SIGCONT");
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    const running = this.#running;
    if (running === null) return;
    this.#signal("SIGTERM");
    const kill = setTimeout(() => this.#signal("SIGKILL"), KILL_GRACE_MS);
    await running.ended;
    clearTimeout(kill);
    await running.pool.destroy();
  }

  #spawn(port: number): Running {
    const { spec, modelName, modelPath, environment } = this.#settings;
    const filled = spec.command.map((part) =>
      part
        .replaceAll("{port}", String(port))
        .replaceAll("{modelName}", modelName)
        .replaceAll("{modelPath}", modelPath),
    );
    const [program, ...args] = filled;
    if (program === undefined)
      throw new PlatformError("invalidArgument", "the engine's command is empty", {
        field: "engine.command",
      });
    const child = spawn(program, args, {
      env: { ...environment, ...spec.environment, PORT: String(port) },
      stdio: ["ignore", "pipe", "pipe"],
      // A group of its own, so that everything it starts ends with it.
      detached: true,
    });
    const tail: string[] = [];
    for (const stream of [child.stdout, child.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on("line", (line) => {
        const text = line.slice(0, LINE_LENGTH_MAX);
        tail.push(text);
        if (tail.length > TAIL_LINES) tail.shift();
        logger("engine").info(text);
      });
    }
    const ended = new Promise<string>((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`));
    });
    const pool = new Pool(`http://127.0.0.1:${port}`, { pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
    logger("engine").info("engine process started", { pid: child.pid, program, port });
    return { child, pool, tail, ended };
  }

  async #untilWell({ pool, tail, ended }: Running): Promise<void> {
    const { spec } = this.#settings;
    const limitMs = spec.readyTimeoutMs || READY_TIMEOUT_DEFAULT_MS;
    const end = Date.now() + limitMs;
    const failed = ended.then((how) => {
      throw endedError(how, tail);
    });
    failed.catch(() => {});
    while (Date.now() < end) {
      if (await Promise.race([isWell(pool, spec.healthPath || "/health"), failed])) return;
      await Promise.race([sleep(HEALTH_INTERVAL_MS), failed]);
    }
    throw new PlatformError("deadlineExceeded", `the engine's process was not ready after ${limitMs} ms`, {
      field: "engine.readyTimeoutMs",
      remedy: `Look at its lines in the log, check that ${spec.healthPath || "/health"} answers 200, or allow more time.`,
    });
  }

  async #pass(path: string, call: EngineCall): Promise<Answer> {
    const { pool } = this.#ready();
    const { pilotlight, ...body } = call.body;
    if (pilotlight !== undefined)
      throw new PlatformError("invalidArgument", "this engine cannot continue another one's answer", {
        field: "pilotlight",
      });
    this.#open++;
    let isPassedOn = false;
    try {
      const answer = await this.#request(
        pool,
        path,
        { ...body, model: this.#settings.modelName },
        call.signal,
      );
      const contentType = String(answer.headers["content-type"] ?? "application/json");
      if (!contentType.startsWith("text/event-stream")) {
        const bytes = Buffer.from(await answer.body.arrayBuffer());
        return { kind: "whole", status: answer.statusCode, contentType, body: bytes };
      }
      isPassedOn = true;
      return { kind: "stream", contentType, parts: this.#counted(answer.body) };
    } finally {
      if (!isPassedOn) this.#open--;
    }
  }

  async #request(
    pool: Pool,
    path: string,
    body: object,
    signal: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    try {
      return await pool.request({
        path,
        method: "POST",
        headers: { ...outgoingHeaders(), "content-type": "application/json" },
        body: JSON.stringify(body),
        signal,
      });
    } catch (cause) {
      signal.throwIfAborted();
      throw new PlatformError(
        "unavailable",
        `the engine's process does not answer: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  async *#counted(parts: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    try {
      yield* parts;
    } finally {
      this.#open--;
    }
  }

  #signal(signal: NodeJS.Signals): void {
    const pid = this.#running?.child.pid;
    if (pid === undefined) return;
    try {
      process.kill(-pid, signal);
    } catch {
      // it has ended already
    }
  }

  #ready(): Running {
    if (this.#running === null) throw new PlatformError("unavailable", "the engine has not started yet");
    return this.#running;
  }
}

async function isWell(pool: Pool, path: string): Promise<boolean> {
  try {
    const answer = await pool.request({
      path,
      method: "GET",
      signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS),
    });
    await answer.body.dump();
    return answer.statusCode >= 200 && answer.statusCode < 300;
  } catch {
    return false; // not listening yet
  }
}

const endedError = (how: string, tail: readonly string[]): PlatformError =>
  new PlatformError("internal", `the engine's process ended (${how}): ${tail.join(" | ").slice(0, 2_000)}`, {
    remedy: "Look at its lines in the log.",
  });

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
