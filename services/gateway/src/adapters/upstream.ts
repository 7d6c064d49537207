// Calls to replicas over kept-alive connections: undici's dispatch, the fastest client there is in Node, behind a reader
// that pulls. Nothing is read ahead of the consumer beyond a small buffer, so a slow client slows its replica down.
//
//   U1. Every call ends: with the end of its answer, an error, or `abort`. No wait is without a limit.
//   U2. What is held of an answer is bounded (I10).
import type { IncomingHttpHeaders } from "node:http";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { Dispatcher } from "undici";
import Pool from "undici/lib/dispatcher/pool.js";
import type { Replica } from "../domain/replica.ts";

export type AnswerHead = { status: number; headers: IncomingHttpHeaders };

export type CallOptions = { path: string; headers: Record<string, string>; body: Buffer | string };

/** Above this the replica is told to pause. */
const HELD_BYTES_MAX = 256 * 1024;
/** Idle connections close before the worker's own time-out could cut a request that is just being sent. */
const KEEP_ALIVE_MS = 4_000;

/** The connections to all replicas. */
export class Upstreams {
  readonly #pools = new Map<string, Pool>();
  readonly #connectTimeoutMs: number;

  constructor(connectTimeoutMs: number) {
    this.#connectTimeoutMs = connectTimeoutMs;
  }

  /** Sends a request to a replica. */
  call(replica: Replica, options: CallOptions): UpstreamCall {
    const call = new UpstreamCall();
    this.#poolOf(replica).dispatch({ method: "POST", ...options }, call);
    return call;
  }

  /** Closes a replica's connections once its calls are over. */
  forget(replica: Replica): void {
    const pool = this.#pools.get(replica.replicaId);
    this.#pools.delete(replica.replicaId);
    pool?.close().catch(() => {});
  }

  async close(): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.destroy()));
    this.#pools.clear();
  }

  #poolOf(replica: Replica): Pool {
    const existing = this.#pools.get(replica.replicaId);
    if (existing !== undefined) return existing;
    const pool = new Pool(replica.status.endpoint, {
      pipelining: 1,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connect: { timeout: this.#connectTimeoutMs },
      // The calls' own limits know what is being waited for.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    this.#pools.set(replica.replicaId, pool);
    return pool;
  }
}

type Waiter = { resolve: () => void; timer: NodeJS.Timeout };

/** One call. Read `head` first, then `next` until it gives null. */
export class UpstreamCall implements Dispatcher.DispatchHandler {
  #controller: Dispatcher.DispatchController | null = null;
  #head: AnswerHead | null = null;
  #chunks: Buffer[] = [];
  #heldBytes = 0;
  #ended = false;
  #error: PlatformError | null = null;
  #waiter: Waiter | null = null;

  /** Status and headers. Throws `unavailable` when there is no answer, `deadlineExceeded` when it takes too long. */
  async head(timeoutMs: number): Promise<AnswerHead> {
    while (this.#head === null) await this.#progress(timeoutMs, "did not begin to answer");
    return this.#head;
  }

  /** The next bytes; null at the end. Throws as `head` does, also when the answer is cut. */
  async next(timeoutMs: number): Promise<Buffer | null> {
    while (this.#chunks.length === 0) {
      if (this.#ended) return null;
      await this.#progress(timeoutMs, "stopped in the middle of an answer");
    }
    const chunk = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#heldBytes = 0;
    if (this.#controller?.paused) this.#controller.resume();
    return chunk as Buffer;
  }

  /** Ends the call; the replica sees its connection close and stops computing. */
  abort(reason: PlatformError): void {
    if (this.#ended || this.#error !== null) return;
    this.#error = reason;
    this.#controller?.abort(reason);
    this.#wake();
  }

  /** Whatever is still to come is not wanted. */
  close(): void {
    if (!this.#ended && this.#error === null)
      this.abort(new PlatformError("cancelled", "the answer is not wanted"));
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#error !== null) controller.abort(this.#error);
  }

  onResponseStart(_: Dispatcher.DispatchController, status: number, headers: IncomingHttpHeaders): void {
    if (status < 200) return;
    this.#head = { status, headers };
    this.#wake();
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#heldBytes += chunk.length;
    if (this.#heldBytes > HELD_BYTES_MAX) controller.pause();
    this.#wake();
  }

  onResponseEnd(): void {
    this.#ended = true;
    this.#wake();
  }

  onResponseError(_: Dispatcher.DispatchController, error: Error): void {
    this.#error ??= new PlatformError("unavailable", `the replica's connection broke: ${messageOf(error)}`, {
      cause: error,
    });
    this.#wake();
  }

  /** Waits until something happens. */
  async #progress(timeoutMs: number, what: string): Promise<void> {
    if (this.#error !== null) throw this.#error;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.abort(new PlatformError("deadlineExceeded", `the replica ${what} for ${timeoutMs} ms`));
    }, timeoutMs);
    this.#waiter = { resolve, timer };
    await promise;
    if (this.#error !== null && this.#chunks.length === 0) throw this.#error;
  }

  #wake(): void {
    if (this.#waiter === null) return;
    clearTimeout(this.#waiter.timer);
    this.#waiter.resolve();
    this.#waiter = null;
  }
}

const messageOf = (error: Error): string => toPlatformError(error).message || error.name;
