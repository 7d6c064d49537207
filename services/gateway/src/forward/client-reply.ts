// The answer on its way to the client: written once, at the client's pace, and never cut without saying so.
//
//   C1. What is written waits for the client (back-pressure), but not for ever: a client that takes nothing is dropped.
//   C2. `onGone` tells whoever works for this client at the moment that it went away.
import type { OutgoingHttpHeaders, ServerResponse } from "node:http";
import { PlatformError } from "@pilotlight/errors";
import { encodeSse, SSE_CONTENT_TYPE, toOpenAiError } from "@pilotlight/openai";
import { REQUEST_ID_HEADER } from "@pilotlight/telemetry";

/** Nginx's status for a client that went away before its answer. */
export const STATUS_CLIENT_GONE = 499;

export class ClientReply {
  readonly #response: ServerResponse;
  readonly #stallTimeoutMs: number;
  #onGone: (() => void) | null = null;
  #gone = false;
  #headSentAt: number | null = null;
  #status: number | null = null;
  #isStream = false;

  constructor(response: ServerResponse, requestId: string, stallTimeoutMs: number) {
    this.#response = response;
    this.#stallTimeoutMs = stallTimeoutMs;
    this.#gone = response.destroyed;
    response.setHeader(REQUEST_ID_HEADER, requestId);
    response.once("close", () => {
      if (response.writableFinished) return;
      this.#gone = true;
      this.#onGone?.();
    });
    response.on("error", () => {}); // `close` follows
  }

  /** Whether the client went away. */
  get gone(): boolean {
    return this.#gone;
  }

  /** What to do when the client goes away; replaces what was set before. */
  set onGone(act: (() => void) | null) {
    this.#onGone = act;
    if (this.#gone) act?.();
  }

  /** When the client got the first byte, epoch ms; null: nothing was sent yet. */
  get headSentAt(): number | null {
    return this.#headSentAt;
  }

  /** The HTTP status that was sent. */
  get status(): number | null {
    return this.#status;
  }

  /** Begins the answer. */
  begin(status: number, headers: OutgoingHttpHeaders): void {
    this.#headSentAt = Date.now();
    this.#status = status;
    this.#response.writeHead(status, headers);
  }

  beginStream(headers: OutgoingHttpHeaders): void {
    this.#isStream = true;
    // No proxy on the way may hold the stream back.
    this.begin(200, {
      ...headers,
      "content-type": SSE_CONTENT_TYPE,
      "cache-control": "no-cache",
      "x-accel-buffering": "no",
    });
  }

  /** Sends a whole answer. */
  sendWhole(status: number, headers: OutgoingHttpHeaders, body: Buffer | string): void {
    if (this.#gone) return;
    this.begin(status, { ...headers, "content-length": Buffer.byteLength(body) });
    this.#response.end(body);
  }

  /** Sends a part; resolves when the client can take more. Throws `cancelled` when it goes away or stalls. */
  async write(part: Buffer | string): Promise<void> {
    if (this.#gone) throw clientGone();
    if (this.#response.write(part)) return;
    await this.#drained();
  }

  end(part?: string): void {
    if (!this.#gone) this.#response.end(part);
  }

  /** An error in OpenAI's form: as the whole answer, or, when a part was sent, as the last event of the stream. */
  fail(error: PlatformError): void {
    if (this.#gone) return;
    const { status, headers, body } = toOpenAiError(error);
    if (this.#headSentAt === null) {
      this.sendWhole(status, { ...headers, "content-type": "application/json" }, JSON.stringify(body));
    } else if (this.#isStream) this.end(encodeSse(body));
    // A whole answer that cannot be completed is cut: the client sees that it has no end.
    else this.#response.destroy();
  }

  async #drained(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => this.#response.destroy(), this.#stallTimeoutMs);
    this.#response.once("drain", resolve).once("close", resolve);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#response.off("drain", resolve).off("close", resolve);
    }
    if (this.#gone) throw clientGone();
  }
}

const clientGone = () => new PlatformError("cancelled", "the client went away");
