// One request from its acceptance to its end: what was asked, what became of it. Filled in by whoever works on it, read once
// at the end for the log line, the metrics and the fact on the bus.
import { randomUUID } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import type { RequestExtension } from "@pilotlight/openai";
import type { Endpoint } from "../domain/endpoint.ts";
import type { Replica } from "../domain/replica.ts";
import { type ClientReply, STATUS_CLIENT_GONE } from "./client-reply.ts";

/** A stream that began well and could not be completed. */
const STATUS_CUT = 502;

/** A request body as far as the gateway reads it; everything else is the worker's. */
export type InferenceBody = {
  model: string;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean } | null;
};

export type ExchangeInit = {
  requestId: string;
  /** The worker's path: `/v1/chat/completions` and the like. */
  path: string;
  endpoint: Endpoint;
  /** The body as it goes to the worker. */
  body: Buffer | string;
  parsed: InferenceBody;
  reply: ClientReply;
  acceptedAt: number;
  /** Whose API key it came with; null without keys. */
  keyName: string | null;
};

export class Exchange {
  readonly requestId: string;
  readonly path: string;
  readonly endpoint: Endpoint;
  readonly body: Buffer | string;
  readonly parsed: InferenceBody;
  readonly reply: ClientReply;
  readonly acceptedAt: number;
  readonly keyName: string | null;
  /** The same for every replica that takes part in the answer. */
  readonly answerId = randomUUID().replaceAll("-", "");
  /** The replica that worked on it last. */
  replica: Replica | null = null;
  /** How often a replica was given the request. */
  attempts = 0;
  /** How often the answer went on elsewhere after a part was sent. */
  continuations = 0;
  /** When the first part of the answer's body went out, epoch ms. */
  firstByteAt: number | null = null;
  promptTokens = 0;
  completionTokens = 0;
  #error: PlatformError | null = null;
  #interrupt: ((reason: PlatformError) => void) | null = null;

  constructor(init: ExchangeInit) {
    this.requestId = init.requestId;
    this.path = init.path;
    this.endpoint = init.endpoint;
    this.body = init.body;
    this.parsed = init.parsed;
    this.reply = init.reply;
    this.acceptedAt = init.acceptedAt;
    this.keyName = init.keyName;
  }

  get isStream(): boolean {
    return this.parsed.stream === true;
  }

  get wantsUsage(): boolean {
    return this.parsed.stream_options?.include_usage === true;
  }

  /** For whoever debugs: who answers. */
  get origin(): Record<string, string> {
    if (this.replica === null) return {};
    return { "x-pilotlight-replica": this.replica.replicaId, "x-pilotlight-version": this.replica.version };
  }

  /** The platform's error that the request ended with, or is about to end with. */
  get error(): PlatformError | null {
    return this.#error;
  }

  /** The status for statistics: what the client got, or what it would have got where its stream was cut. */
  get status(): number {
    if (this.reply.gone) return STATUS_CLIENT_GONE;
    const sent = this.reply.status ?? STATUS_CLIENT_GONE;
    return sent === 200 && this.#error !== null ? STATUS_CUT : sent;
  }

  /** What ends the present wait or call; called when the client goes away or the process stops. */
  set onInterrupt(act: ((reason: PlatformError) => void) | null) {
    this.#interrupt = act;
    this.reply.onGone =
      act === null ? null : () => act(new PlatformError("cancelled", "the client went away"));
    if (this.#error !== null) act?.(this.#error);
  }

  /** Ends the request with an error, wherever it stands. */
  stop(error: PlatformError): void {
    this.#error = error;
    this.#interrupt?.(error);
  }

  /** Tells the client, and keeps for the record, that the request failed. */
  fail(error: PlatformError): void {
    this.#error = error;
    this.reply.fail(error);
  }

  /** The request that goes on behind what the client has. */
  continuing(extension: RequestExtension): string {
    return JSON.stringify({ ...this.parsed, pilotlight: extension });
  }
}
