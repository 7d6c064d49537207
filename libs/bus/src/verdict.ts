// The verdict on a message: done, again later, or dead. Spoken only after its effects are committed or undone.
import type { JsMsg } from "@nats-io/jetstream";
import { backoffMs, type PlatformError, type RetryPolicy } from "@pilotlight/errors";
import { counter, logger } from "@pilotlight/telemetry";
import type { Bus } from "./connection.ts";
import { fromNatsHeaders, toNatsHeaders } from "./envelope.ts";
import { DEAD_LETTER_SUBJECT } from "./streams.ts";

/** What a handler knows of its message beside the payload. */
export type Delivery = {
  id: string;
  subject: string;
  /** When the event was published, epoch ms. */
  publishedAt: number;
  /** 1 on the first delivery. */
  attempt: number;
};

export type Delivered = { message: JsMsg; delivery: Delivery };

const REDELIVERY: RetryPolicy = { attemptsMax: 12, initialDelayMs: 250, delayMsMax: 30_000 };

const handled = counter({
  name: "pilotlight_bus_handled_total",
  help: "Messages by outcome.",
  labelNames: ["consumer", "outcome"],
});

export class Verdicts {
  readonly #bus: Bus;
  readonly #durable: string;
  readonly #redelivery: RetryPolicy;
  readonly #log = logger("consumer");

  constructor(bus: Bus, durable: string, redelivery: RetryPolicy = REDELIVERY) {
    this.#bus = bus;
    this.#durable = durable;
    this.#redelivery = redelivery;
  }

  /** Acknowledges messages; all of them leave in one write. */
  done(items: readonly Delivered[]): void {
    for (const { message } of items) message.ack();
    handled.inc({ consumer: this.#durable, outcome: "done" }, items.length);
  }

  /** Decides what becomes of a message whose handler failed. */
  async failed(item: Delivered, error: PlatformError): Promise<void> {
    const { subject, attempt } = item.delivery;
    const about = { consumer: this.#durable, subject, attempt, error };
    if (isPassing(error) && attempt < this.#redelivery.attemptsMax) {
      const delayMs = Math.max(backoffMs(this.#redelivery, attempt, Math.random()), error.retryAfterMs ?? 0);
      this.#log.warn("handler failed; will try again", { ...about, delayMs });
      item.message.nak(delayMs);
      handled.inc({ consumer: this.#durable, outcome: "again" });
    } else {
      this.#log.error("handler failed for good", about);
      await bury(this.#bus, this.#durable, item, error);
      handled.inc({ consumer: this.#durable, outcome: "dead" });
    }
  }
}

/** Failures that another attempt can cure. An unforeseen one counts: a bug fixed by a restart must not lose the message. */
const isPassing = (error: PlatformError): boolean =>
  error.retryable || error.code === "internal" || error.code === "conflict";

/** Keeps a message that cannot be handled where people find it, then ends its delivery. */
async function bury(bus: Bus, durable: string, item: Delivered, error: PlatformError): Promise<void> {
  const reason = {
    "pl-dead-consumer": durable,
    "pl-dead-subject": item.delivery.subject,
    "pl-dead-code": error.code,
    "pl-dead-reason": error.message.replace(/[\r\n]+/g, " ").slice(0, 1_000),
    "pl-dead-attempts": String(item.delivery.attempt),
  };
  await bus.jetstream.publish(`${DEAD_LETTER_SUBJECT}.${durable}`, item.message.data, {
    msgID: `${durable}:${item.delivery.id}`,
    headers: toNatsHeaders({ ...fromNatsHeaders(item.message.headers), ...reason }),
  });
  item.message.term(error.code);
}
