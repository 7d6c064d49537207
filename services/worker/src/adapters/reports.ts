// The line to the node agent: reports go there, commands come back, for as long as the process lives (I8: an agent that is
// away, or restarted, changes nothing for the requests).
import { setTimeout as sleep } from "node:timers/promises";
import {
  type AttachWorkerRequestSchema,
  type MessageInitShape,
  NodeAgentService,
  timestampFromMs,
  timestampMs,
} from "@pilotlight/contracts";
import { backoffMs, type RetryPolicy, toPlatformError } from "@pilotlight/errors";
import { type GrpcClient, grpcClient } from "@pilotlight/service";
import { logger } from "@pilotlight/telemetry";

export type Report = Omit<
  MessageInitShape<typeof AttachWorkerRequestSchema>,
  "$typeName" | "replicaId" | "token"
>;

export type ReportSettings = {
  nodeAgentAddress: string;
  replicaId: string;
  token: string;
  reportIntervalMs: number;
  reattachDelayMsMax: number;
};

const CALL_TIMEOUT_MS = 5_000;
const RETRY_DELAY_MS = 100;
/** A stream that lived this long was a connection; a shorter one was a failed try. */
const ATTACHED_MS_MIN = 1_000;

/** Attaches to the node agent, again and again. */
export class Reports {
  readonly #settings: ReportSettings;
  readonly #backoff: RetryPolicy;
  readonly #client: GrpcClient<typeof NodeAgentService>;
  readonly #read: () => Report;
  readonly #onDrain: (deadlineAt: number) => void;
  readonly #stopper = new AbortController();
  #bell: (() => void) | null = null;
  #isLast = false;
  #running: Promise<void> = Promise.resolve();

  /** `read` gives the whole state whenever it is to be told. */
  constructor(settings: ReportSettings, read: () => Report, onDrain: (deadlineAt: number) => void) {
    this.#settings = settings;
    this.#backoff = {
      attemptsMax: Number.POSITIVE_INFINITY,
      initialDelayMs: RETRY_DELAY_MS,
      delayMsMax: settings.reattachDelayMsMax,
    };
    this.#client = grpcClient(NodeAgentService, settings.nodeAgentAddress, { timeoutMs: CALL_TIMEOUT_MS });
    this.#read = read;
    this.#onDrain = onDrain;
  }

  start(): void {
    this.#running = this.#keepAttached();
  }

  /** Something changed: it is told at once. */
  changed(): void {
    this.#bell?.();
    this.#bell = null;
  }

  /** Tells the last state and lets go, within `timeoutMs`. */
  async finish(timeoutMs: number): Promise<void> {
    this.#isLast = true;
    this.changed();
    await Promise.race([this.#running, sleep(timeoutMs)]);
    this.#stopper.abort();
    this.#client.close();
  }

  async #keepAttached(): Promise<void> {
    const { signal } = this.#stopper;
    for (let failures = 0; !signal.aborted; failures++) {
      const startedAt = Date.now();
      const error = await this.#attach().catch((thrown: unknown) => toPlatformError(thrown));
      if (signal.aborted || (this.#isLast && error === undefined)) return;
      if (Date.now() - startedAt > ATTACHED_MS_MIN) failures = 0;
      if (failures === 0) logger("reports").warn("no node agent; serving on, and attaching again", { error });
      await sleep(backoffMs(this.#backoff, Math.min(failures + 1, 20), Math.random()), undefined, {
        signal,
      }).catch(() => {});
    }
  }

  async #attach(): Promise<void> {
    const commands = this.#client.attachWorker(this.#reports(), { signal: this.#stopper.signal });
    for await (const { command } of commands) {
      if (command.case !== "drain") continue;
      const deadline = command.value.deadline;
      this.#onDrain(deadline === undefined ? Date.now() : timestampMs(deadline));
    }
  }

  async *#reports() {
    const { replicaId, token, reportIntervalMs } = this.#settings;
    for (;;) {
      const isLast = this.#isLast;
      yield { replicaId, token, ...this.#read() };
      if (isLast) return;
      if (!this.#isLast) await this.#wait(reportIntervalMs);
    }
  }

  #wait(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#bell = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Marks as they travel. */
export const wireMarks = (marks: readonly { phase: number; at: number }[]) =>
  marks.map(({ phase, at }) => ({ phase, at: timestampFromMs(at) }));
