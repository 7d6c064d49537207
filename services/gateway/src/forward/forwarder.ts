// The way of one request: a place at a replica, an attempt, and another one as long as that can help.
//
//   F1. Every accepted request ends with a complete answer or an error that says what happened (I1).
//   F2. As long as the client has nothing, any replica may try; once it has a part, only one with the same model goes on
//       behind the tokens that were sent.
//   F3. A replica that breaks connections is left alone for all; one that answers with an error only for this request: a
//       request that makes engines fail must not take the replicas from the others.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { ANSWER_HEADER } from "@pilotlight/openai";
import { outgoingHeaders } from "@pilotlight/telemetry";
import type { UpstreamCall, Upstreams } from "../adapters/upstream.ts";
import type { Replica } from "../domain/replica.ts";
import { sameModel } from "../domain/same-model.ts";
import type { Exchange } from "./exchange.ts";
import type { Outcome, WholeAnswer } from "./outcome.ts";
import { relayStream, type StreamLimits, StreamProgress } from "./relay-stream.ts";
import { relayWhole, type WholeLimits } from "./relay-whole.ts";

export type ForwardLimits = StreamLimits & WholeLimits & { attemptsMax: number };

export type ForwardPorts = {
  upstreams: Upstreams;
  limits: ForwardLimits;
  /** A replica has taken the request: the first, or a further one. */
  onAttempt(exchange: Exchange): void;
  /** An attempt failed; the client has not noticed. */
  onFailedAttempt(exchange: Exchange, error: PlatformError): void;
};

/** Brings one request to its end. Never throws; the exchange holds what happened. */
export async function forward(exchange: Exchange, ports: ForwardPorts): Promise<void> {
  const forwarding = new Forwarding(exchange, ports);
  try {
    await forwarding.run();
  } catch (thrown) {
    if (!exchange.reply.gone) exchange.fail(exchange.error ?? toPlatformError(thrown));
  } finally {
    exchange.onInterrupt = null;
    forwarding.note();
  }
}

class Forwarding {
  readonly #exchange: Exchange;
  readonly #ports: ForwardPorts;
  readonly #tried = new Set<string>();
  #progress: StreamProgress;
  /** Attempts in a row that brought nothing. */
  #fruitless = 0;
  #failure: { error: PlatformError; answer: WholeAnswer | null } | null = null;
  /** How long the client's part may wait to be continued, epoch ms. */
  #continueUntil = 0;

  constructor(exchange: Exchange, ports: ForwardPorts) {
    this.#exchange = exchange;
    this.#ports = ports;
    this.#progress = new StreamProgress(ports.limits);
  }

  async run(): Promise<void> {
    const { endpoint, reply } = this.#exchange;
    for (;;) {
      const replica = await this.#enter();
      if (replica === null) return this.#giveUp();
      let outcome: Outcome;
      const tokensBefore = this.#progress.tokens;
      try {
        outcome = await this.#attempt(replica);
      } finally {
        endpoint.leave(replica);
      }
      if (outcome.kind === "done" || outcome.kind === "clientGone") return;
      if (outcome.kind === "lost") throw outcome.error;
      if (this.#exchange.error !== null) throw this.#exchange.error;
      this.#judge(replica, outcome);
      if (this.#progress.tokens > tokensBefore && reply.headSentAt !== null) {
        this.#fruitless = 0;
        this.#tried.clear();
      }
      if (reply.headSentAt !== null && this.#isComplete()) return;
      if (this.#fruitless >= this.#ports.limits.attemptsMax) return this.#giveUp();
    }
  }

  /** A place at a replica; null when every one was tried. */
  async #enter(): Promise<Replica | null> {
    const { endpoint, reply, acceptedAt } = this.#exchange;
    const isContinuing = reply.headSentAt !== null;
    if (isContinuing && this.#continueUntil === 0)
      this.#continueUntil = Date.now() + endpoint.limits.continuationWaitMsMax;
    const entrance = endpoint.enter({
      kind: isContinuing ? "continuing" : "fresh",
      deadlineAt: isContinuing ? this.#continueUntil : acceptedAt + endpoint.limits.queueWaitMsMax,
      tried: this.#tried.size === 0 ? null : this.#tried,
      fits: isContinuing ? (replica) => this.#fits(replica) : null,
    });
    if (entrance.kind === "replica") return entrance.replica;
    if (entrance.kind === "exhausted") return null;
    this.#exchange.onInterrupt = entrance.cancel;
    const replica = await entrance.replica;
    // It may have gone in the moment between being served and getting here.
    if (!reply.gone && this.#exchange.error === null) return replica;
    endpoint.leave(replica);
    throw this.#exchange.error ?? new PlatformError("cancelled", "the client went away");
  }

  #fits(replica: Replica): boolean {
    const { endpoint, replica: last } = this.#exchange;
    if (last === null || last.version === replica.version) return true;
    return sameModel(endpoint.specOf(last.versionNumber), endpoint.specOf(replica.versionNumber));
  }

  /** One attempt at one replica. */
  async #attempt(replica: Replica): Promise<Outcome> {
    const exchange = this.#exchange;
    const { upstreams, limits, onAttempt } = this.#ports;
    exchange.replica = replica;
    exchange.attempts++;
    onAttempt(exchange);
    const call = upstreams.call(replica, {
      path: exchange.path,
      headers: {
        ...outgoingHeaders(),
        "content-type": "application/json",
        [ANSWER_HEADER]: exchange.answerId,
      },
      body: this.#body(),
    });
    exchange.onInterrupt = (reason) => call.abort(reason);
    const stopListening = replica.onLost(() =>
      call.abort(new PlatformError("unavailable", `the replica ${replica.replicaId} is gone`)),
    );
    try {
      const outcome = await this.#relay(call, limits);
      if (outcome.kind === "done") replica.answered();
      return outcome;
    } catch (thrown) {
      if (exchange.reply.gone) return { kind: "clientGone" };
      return { kind: "broken", error: toPlatformError(thrown) };
    } finally {
      stopListening();
      call.close();
    }
  }

  async #relay(call: UpstreamCall, limits: ForwardLimits): Promise<Outcome> {
    const { isStream } = this.#exchange;
    const head = await call.head(isStream ? limits.firstTokenTimeoutMs : limits.answerTimeoutMs);
    const isSse = String(head.headers["content-type"] ?? "").startsWith("text/event-stream");
    if (isStream && isSse && head.status === 200)
      return relayStream(this.#exchange, call, this.#progress, limits);
    return relayWhole(this.#exchange, head, call, limits);
  }

  /** What the replica is asked: the request as it came, or what continues its answer. */
  #body(): Buffer | string {
    const { reply, body } = this.#exchange;
    if (reply.headSentAt === null) {
      // Nothing was sent: whatever an earlier replica said is forgotten.
      this.#progress = new StreamProgress(this.#ports.limits);
      return body;
    }
    const extension = this.#progress.tally.extension();
    // `#isComplete` has thrown before for an answer that cannot go on.
    return extension === null ? body : this.#exchange.continuing(extension);
  }

  /** Draws the consequences of a failed attempt. */
  #judge(replica: Replica, outcome: Exclude<Outcome, { kind: "done" | "clientGone" | "lost" }>): void {
    const { endpoint, reply } = this.#exchange;
    if (outcome.kind === "draining") {
      replica.drains();
      endpoint.refresh();
      return;
    }
    this.#fruitless++;
    this.#tried.add(replica.replicaId);
    if (outcome.kind === "broken") endpoint.eject(replica);
    this.#failure = { error: outcome.error, answer: outcome.kind === "refused" ? outcome.answer : null };
    if (reply.headSentAt !== null) this.#exchange.continuations++;
    this.#ports.onFailedAttempt(this.#exchange, outcome.error);
  }

  /** Whether the client has the whole answer although its replica broke; throws when it cannot be continued either. */
  #isComplete(): boolean {
    const { reply, wantsUsage } = this.#exchange;
    if (this.#progress.tally.finished) {
      reply.end(this.#progress.closing(wantsUsage));
      return true;
    }
    if (this.#progress.tally.extension() !== null) return false;
    const why = this.#failure?.error.message ?? "its replica went away";
    throw new PlatformError("unavailable", `the answer was cut and cannot be continued: ${why}`, {
      remedy: "Send the request again.",
    });
  }

  /** Nobody is left who could do better: the client gets what the last replica said. */
  #giveUp(): void {
    const { reply } = this.#exchange;
    const answer = this.#failure?.answer ?? null;
    if (answer !== null && reply.headSentAt === null) {
      reply.sendWhole(answer.status, { ...answer.headers, ...this.#exchange.origin }, answer.body);
      return;
    }
    const why = this.#failure?.error.message ?? "no replica answers";
    throw new PlatformError(
      "unavailable",
      `${this.#exchange.attempts} attempts failed, the last one: ${why}`,
      {
        retryAfterMs: 1_000,
        remedy: "Try again; if it stays so, look at the replicas with 'pilotlight status'.",
      },
    );
  }

  /** Puts the token counts of a stream into the record. */
  note(): void {
    if (!this.#exchange.isStream) return;
    this.#exchange.promptTokens = this.#progress.promptTokens;
    this.#exchange.completionTokens = this.#progress.tokens;
  }
}
