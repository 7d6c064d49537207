// Moves one replica: takes inputs one after the other, saves each new state, then does what the state asks for.
//   A1. Saved before acted upon: whatever an act leaves behind is found again by the state that asked for it.
//   A2. One act at a time. A new state's act begins after the former one has given up.
//   A3. Acts are idempotent by the replica's ID, so `resume` after a crash simply does the present state's act again.
import type { Backend, ImageToMount, Launch, PlacedProcess, ProcessIdentity } from "@pilotlight/compute";
import { type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import { AsyncQueue } from "./async-queue.ts";
import {
  type CompileCache,
  type Failure,
  type Replica,
  type ReplicaInput,
  type ReplicaLimits,
  step,
  wakeAt,
  wasReady,
} from "./domain/replica.ts";

/** What a runner needs from its surroundings. */
export type RunnerPorts = {
  backend: Backend;
  /** Persists; resolves when the replica would survive the process. */
  save(replica: Replica): Promise<void>;
  /** Tells the platform; must not wait. */
  announce(replica: Replica): void;
  /** Sees to it that the replica's image can be mounted. */
  ensureImage(replica: Replica, signal: AbortSignal): Promise<ImageToMount>;
  /** Restores the version's compile cache; undefined where it has none. Never fails. */
  restoreCompileCache(replica: Replica, image: ImageToMount): Promise<CompileCache | undefined>;
  /** Saves it after a start, where that is worth it. Gives the bytes. Never fails. */
  saveCompileCache(replica: Replica, signal: AbortSignal): Promise<number>;
  /** Prepares the replica's folder and says how its process is started. */
  prepareLaunch(replica: Replica): Promise<Launch>;
  /** The end of what the process wrote to stderr. */
  lastLines(replica: Replica): Promise<string>;
  limits: ReplicaLimits;
  /** For acts that may pass: the start's own deadline ends them. */
  retry: RetryPolicy;
};

/** What a worker is told. */
export type WorkerCommand = { kind: "drain"; deadlineAt: number };

const SAVE_PATIENCE: RetryPolicy = {
  attemptsMax: Number.MAX_SAFE_INTEGER,
  initialDelayMs: 100,
  delayMsMax: 5_000,
};
const RELEASE_PATIENCE: RetryPolicy = {
  attemptsMax: Number.MAX_SAFE_INTEGER,
  initialDelayMs: 200,
  delayMsMax: 10_000,
};
/** setTimeout's own limit. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class ReplicaRunner {
  #replica: Replica;
  readonly #ports: RunnerPorts;
  readonly #inputs: { input: ReplicaInput; done: () => void }[] = [];
  #isStepping = false;
  #stepping: Promise<void> = Promise.resolve();
  #acting: Promise<void> = Promise.resolve();
  #act = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #process: PlacedProcess | undefined;
  #commands: AsyncQueue<WorkerCommand> | undefined;
  #restoring: Promise<void> | undefined;
  readonly #closing = new AbortController();
  #closed = false;
  readonly #goneListeners: (() => void)[] = [];
  readonly #log = logger("replica");

  constructor(replica: Replica, ports: RunnerPorts) {
    this.#replica = replica;
    this.#ports = ports;
  }

  get replica(): Replica {
    return this.#replica;
  }

  /** Begins, or goes on after a restart. The replica must be saved already. */
  resume(): void {
    this.#ports.announce(this.#replica);
    this.#enter();
  }

  /** Hands in what happened. Resolves when the new state is saved. */
  send(input: ReplicaInput): Promise<void> {
    if (this.#closed) return Promise.resolve();
    return new Promise((resolve) => {
      this.#inputs.push({ input, done: resolve });
      if (this.#isStepping) return;
      this.#isStepping = true;
      this.#stepping = this.#stepAll();
    });
  }

  /** A worker's stream is open: what it is to be told, the present order first. A later stream replaces this one. */
  attach(): AsyncQueue<WorkerCommand> {
    this.#commands?.end();
    const commands = new AsyncQueue<WorkerCommand>();
    this.#commands = commands;
    this.#order();
    return commands;
  }

  /** Resolves when the replica is gone, or when it is left to the next agent. */
  whenGone(): Promise<void> {
    if (this.#replica.state.kind === "gone" || this.#closed) return Promise.resolve();
    return new Promise((resolve) => this.#goneListeners.push(resolve));
  }

  /** Stops moving the replica and leaves it as it is, for the next agent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#closing.abort();
    clearTimeout(this.#timer);
    this.#act.abort();
    this.#commands?.end();
    await this.#stepping;
    await this.#acting;
    this.#tellGone();
  }

  async #stepAll(): Promise<void> {
    for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
      const before = this.#replica;
      const after = step(before, next.input, Date.now(), this.#ports.limits);
      if (after !== before) await this.#move(before, { ...after, revision: before.revision + 1 });
      next.done();
    }
    this.#isStepping = false; // in the same instant as the last look at #inputs
  }

  async #move(before: Replica, after: Replica): Promise<void> {
    const { replicaId } = after.assignment;
    await retry(() => this.#ports.save(after), SAVE_PATIENCE, {
      shouldRetry: () => true,
      onRetry: (error) => this.#log.error("a replica's state cannot be saved; waiting", { replicaId, error }),
    });
    this.#replica = after;
    const { state } = after;
    if (state.kind !== before.state.kind) {
      const failure = state.kind === "releasing" ? state.outcome.failure : undefined;
      const said = failure === undefined ? {} : { code: failure.code, reason: failure.message };
      this.#log.info("replica moved", { replicaId, from: before.state.kind, to: state.kind, ...said });
    }
    if (!(state.kind === "gone" && state.announced)) this.#ports.announce(after);
    if (actOf(after) !== actOf(before)) this.#enter();
    else this.#arm();
    if (state.kind === "draining") this.#order();
    if (state.kind === "gone") this.#tellGone();
    if (!wasReady(before) && wasReady(after)) {
      void this.#ports.backend.learnStart(replicaId);
      void this.#saveCompileCache(after);
    }
  }

  /** Beside the mounting of the image and the coming of the weights; the process's start waits for it. */
  #restoreCompileCacheOnce(image: ImageToMount): Promise<void> {
    this.#restoring ??= this.#restoreCompileCache(image);
    return this.#restoring;
  }

  async #restoreCompileCache(image: ImageToMount): Promise<void> {
    const cache = await this.#ports.restoreCompileCache(this.#replica, image);
    if (cache !== undefined) await this.send({ kind: "compileCache", cache });
  }

  async #saveCompileCache(replica: Replica): Promise<void> {
    const savedBytes = await this.#ports.saveCompileCache(replica, this.#closing.signal);
    const cache = replica.compileCache;
    if (cache !== undefined && savedBytes > 0)
      await this.send({ kind: "compileCache", cache: { ...cache, savedBytes } });
  }

  #tellGone(): void {
    for (const listener of this.#goneListeners.splice(0)) listener();
  }

  /** Gives up the former state's act and begins the present one's. */
  #enter(): void {
    this.#arm();
    this.#act.abort();
    const act = new AbortController();
    this.#act = act;
    this.#acting = this.#acting.then(() => this.#perform(act.signal));
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const at = wakeAt(this.#replica, this.#ports.limits);
    if (at === undefined || this.#closed) return;
    const delayMs = Math.min(TIMER_MS_MAX, Math.max(0, at - Date.now()));
    this.#timer = setTimeout(() => void this.send({ kind: "tick" }), delayMs);
  }

  #order(): void {
    const { state } = this.#replica;
    if (state.kind === "draining") this.#commands?.push({ kind: "drain", deadlineAt: state.deadlineAt });
  }

  async #perform(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    try {
      const input = await this.#tryAct(signal);
      if (input !== undefined && !this.#closed) void this.send(input);
    } catch (thrown) {
      if (signal.aborted) return;
      void this.send({ kind: "failed", failure: failureOf(thrown) });
    }
  }

  async #tryAct(signal: AbortSignal): Promise<ReplicaInput | undefined> {
    const { state, assignment } = this.#replica;
    const { backend } = this.#ports;
    const place = assignment.replicaId;
    switch (state.kind) {
      case "ensuringImage":
        return {
          kind: "imageReady",
          image: await this.#keepTrying(() => this.#ports.ensureImage(this.#replica, signal), signal),
        };
      case "mounting":
        void this.#restoreCompileCacheOnce(state.image);
        await this.#keepTrying(() => this.#mount(state.image, signal), signal);
        return { kind: "mounted" };
      case "starting": {
        await this.#restoreCompileCacheOnce(state.image);
        signal.throwIfAborted();
        const process = await this.#keepTrying(async () => {
          const launch = await this.#ports.prepareLaunch(this.#replica);
          return backend.start(place, state.image, launch, signal);
        }, signal);
        await this.send({ kind: "started", process: process.identity });
        this.#watch(process);
        return undefined;
      }
      case "running":
      case "draining":
        return this.#known(state.process) === undefined ? this.#endedUnseen() : undefined;
      case "stopping": {
        const process = this.#known(state.process);
        process?.signal(state.signal);
        return process === undefined ? this.#endedUnseen() : undefined;
      }
      case "releasing":
        await retry(() => backend.release(place), RELEASE_PATIENCE, {
          signal,
          shouldRetry: () => true,
          onRetry: (error) =>
            this.#log.warn("a replica's place cannot be released yet", { replicaId: place, error }),
        });
        return { kind: "released" };
      case "gone":
        return undefined;
      default:
        return state satisfies never;
    }
  }

  /** An image that was collected as garbage since the converter named it is converted once more. */
  async #mount(image: ImageToMount, signal: AbortSignal): Promise<void> {
    const mount = () => this.#ports.backend.mount(this.#replica.assignment.replicaId, image, signal);
    try {
      await mount();
    } catch (thrown) {
      if (toPlatformError(thrown).code !== "notFound") throw thrown;
      const again = await this.#ports.ensureImage(this.#replica, signal);
      // A tag may lead elsewhere by now; what the replica is to run was decided.
      if (again.manifestDigest !== image.manifestDigest || again.pulled !== image.pulled) throw thrown;
      await mount();
    }
  }

  /** Tries again what may pass, and says what hinders. The start's deadline ends it. */
  #keepTrying<T>(operation: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return retry(operation, this.#ports.retry, {
      signal,
      onRetry: (error, attempt, delayMs) => {
        const { replicaId } = this.#replica.assignment;
        this.#log.warn("a replica's start is hindered", { replicaId, attempt, delayMs, error });
        void this.send({ kind: "hindered", failure: failureOf(error) });
      },
    });
  }

  /** The replica's process: ours, or one that an earlier agent started and that still runs. */
  #known(identity: ProcessIdentity): PlacedProcess | undefined {
    if (this.#process !== undefined) return this.#process;
    const adopted = this.#ports.backend.adopt(identity);
    if (adopted !== undefined) {
      this.#log.info("took over a running replica", {
        replicaId: this.#replica.assignment.replicaId,
        pid: identity.pid,
      });
      this.#watch(adopted);
    }
    return adopted;
  }

  #watch(process: PlacedProcess): void {
    this.#process = process;
    void process.ended.then(async (end) => {
      const lastLines = await this.#ports.lastLines(this.#replica);
      await this.send({ kind: "ended", end, lastLines });
    });
  }

  async #endedUnseen(): Promise<ReplicaInput> {
    return { kind: "ended", end: { kind: "unknown" }, lastLines: await this.#ports.lastLines(this.#replica) };
  }
}

/** States with the same act are told apart by nothing else. */
const actOf = ({ state }: Replica): string =>
  state.kind === "stopping" ? `${state.kind} ${state.signal}` : state.kind;

function failureOf(thrown: unknown): Failure {
  const { code, message, remedy } = toPlatformError(thrown);
  return { code, message, remedy: remedy ?? "" };
}
