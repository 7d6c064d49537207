// Durable consumers. One loop does the acknowledging; handlers only return or throw.
//   C1. A message is acknowledged after its effects are committed, never before.
//   C2. With an inbox, effects and the note of the message's ID commit together: effectively once (I7, way in).
//   C3. A retryable failure comes again after a growing delay; a terminal one, or the last attempt, goes to the dead-letter
//       stream with its reason, so that one bad message never stops the others.
//   C4. Messages that wait together are committed together; if that fails each is tried alone.
import type { ConsumerMessages, JsMsg } from "@nats-io/jetstream";
import {
  EVENTS,
  type EventName,
  type EventType,
  eventOfSubject,
  type MessageOf,
} from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { Store, Transaction } from "@pilotlight/store";
import {
  gauge,
  histogram,
  inSpan,
  LATENCY_BUCKETS_S,
  logger,
  withIncomingHeaders,
} from "@pilotlight/telemetry";
import type { Bus } from "./connection.ts";
import { type ConsumerSettings, openDurable } from "./durable.ts";
import { fromNatsHeaders, pack, unpack } from "./envelope.ts";
import { insertRows, type Outbox, type OutboxRow, type PublishInTransaction } from "./outbox.ts";
import { type Delivered, type Delivery, Verdicts } from "./verdict.ts";

/** Inside of a database transaction: what is written and published here commits with the message. */
export type InboxPorts = { tx: Transaction; publish: PublishInTransaction };

type Handlers<Ports> = {
  [Name in EventName]?: (
    message: MessageOf<(typeof EVENTS)[Name]>,
    ports: Ports,
    delivery: Delivery,
  ) => Promise<void> | void;
};

export type Subscription = { close(): Promise<void> };

const BATCH_MAX = 256;

const waiting = gauge({
  name: "pilotlight_bus_in_hand",
  help: "Messages taken from the server and not finished.",
  labelNames: ["consumer"],
});
const latency = histogram({
  name: "pilotlight_bus_latency_seconds",
  help: "Published to handler entered.",
  labelNames: ["consumer"],
  buckets: LATENCY_BUCKETS_S,
});

/** Consumes through the service's database: effects, inbox and outbox commit together. */
export function consumeWithInbox(
  bus: Bus,
  store: Store,
  outbox: Outbox,
  settings: ConsumerSettings,
  handlers: Handlers<InboxPorts>,
): Promise<Subscription> {
  const consumer = `${bus.service}__${settings.name}`;
  return startConsumer(bus, settings, handlers as Handlers<never>, async (batch) => {
    const rows: OutboxRow[] = [];
    await store.transaction(async (tx) => {
      const publish: PublishInTransaction = (type, message, extra = {}) => {
        rows.push({ ...pack(bus.service, type, message, extra.id), ttlMs: extra.ttlMs });
      };
      const fresh = await tx<{ id: string }[]>`
        insert into inbox (consumer, id) select ${consumer}, unnest(${batch.map(({ delivery }) => delivery.id)}::text[])
        on conflict do nothing returning id`;
      const ids = new Set(fresh.map((row) => row.id));
      for (const item of batch) if (ids.delete(item.delivery.id)) await item.run({ tx, publish });
      await insertRows(tx, rows);
    });
    if (rows.length > 0) outbox.notify();
  });
}

/** Consumes without a database: handlers must be idempotent by the fact itself. */
export function consumeIdempotent(
  bus: Bus,
  settings: ConsumerSettings,
  handlers: Handlers<undefined>,
): Promise<Subscription> {
  return startConsumer(bus, settings, handlers as Handlers<never>, async (batch) => {
    for (const item of batch) await item.run(undefined);
  });
}

/** Deletes notes of processed messages that the server can no longer deliver. */
export async function sweepInbox(store: Store, keepMs: number): Promise<void> {
  await store.sql`delete from inbox where processed_at < now() - ${keepMs} * interval '1 millisecond'`;
}

type Item = Delivered & { run: (ports: unknown) => Promise<void> };
type Commit = (batch: readonly Item[]) => Promise<void>;

async function startConsumer(
  bus: Bus,
  settings: ConsumerSettings,
  handlers: Handlers<never>,
  commit: Commit,
): Promise<Subscription> {
  const durable = `${bus.service}__${settings.name}`;
  const types = Object.keys(handlers).map((name) => EVENTS[name as EventName] as EventType);
  const messages = await openDurable(bus, durable, types, settings);
  const loop = new ConsumerLoop(durable, handlers, commit, new Verdicts(bus, durable, settings.redelivery));
  return loop.run(messages);
}

class ConsumerLoop {
  readonly #durable: string;
  readonly #handlers: Handlers<never>;
  readonly #commit: Commit;
  readonly #verdicts: Verdicts;
  readonly #queue: JsMsg[] = [];
  #wake: () => void = () => {};
  #closed = false;

  constructor(durable: string, handlers: Handlers<never>, commit: Commit, verdicts: Verdicts) {
    this.#durable = durable;
    this.#handlers = handlers;
    this.#commit = commit;
    this.#verdicts = verdicts;
  }

  /** Takes and works until closed. What is taken is bounded by the consumer's `inFlightMax`. */
  run(messages: ConsumerMessages): Subscription {
    const taking = this.#take(messages);
    const working = this.#work();
    return {
      close: async () => {
        this.#closed = true;
        this.#wake();
        await messages.close();
        await taking;
        await working;
        for (const message of this.#queue) message.nak();
      },
    };
  }

  async #take(messages: ConsumerMessages): Promise<void> {
    for await (const message of messages) {
      this.#queue.push(message);
      this.#wake();
    }
  }

  async #work(): Promise<void> {
    while (!this.#closed) {
      waiting.set({ consumer: this.#durable }, this.#queue.length);
      if (this.#queue.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      const batch = this.#queue.splice(0, BATCH_MAX).map((message) => this.#itemOf(message));
      try {
        await this.#process(batch);
      } catch (error) {
        // Even the verdict could not be told (NATS is away): the server delivers again after its own timeout.
        logger("consumer").warn("could not acknowledge", {
          consumer: this.#durable,
          error: toPlatformError(error),
        });
      }
    }
  }

  async #process(batch: readonly Item[]): Promise<void> {
    try {
      await this.#commit(batch);
    } catch (thrown) {
      const [only] = batch;
      if (batch.length > 1) for (const item of batch) await this.#process([item]);
      else if (only !== undefined) await this.#verdicts.failed(only, toPlatformError(thrown));
      return;
    }
    this.#verdicts.done(batch);
  }

  #itemOf(message: JsMsg): Item {
    const headers = fromNatsHeaders(message.headers);
    const delivery: Delivery = {
      id: headers["ce-id"] ?? headers["nats-msg-id"] ?? `${message.info.stream}-${message.seq}`,
      subject: message.subject,
      publishedAt: Date.parse(headers["ce-time"] ?? message.timestamp),
      attempt: message.info.deliveryCount,
    };
    return { message, delivery, run: (ports) => this.#handle(message, headers, delivery, ports) };
  }

  #handle(
    message: JsMsg,
    headers: Record<string, string>,
    delivery: Delivery,
    ports: unknown,
  ): Promise<void> {
    const found = eventOfSubject(message.subject);
    const handler = found === undefined ? undefined : (this.#handlers as Record<string, unknown>)[found.name];
    const span = { kind: "consumer", attributes: { "messaging.message.id": delivery.id } } as const;
    return withIncomingHeaders(headers, () =>
      inSpan(`consume ${this.#durable}`, span, async () => {
        if (found === undefined || handler === undefined)
          throw new PlatformError("unsupported", `nobody handles ${message.subject}`);
        latency.observe({ consumer: this.#durable }, Math.max(0, Date.now() - delivery.publishedAt) / 1000);
        await (handler as (m: unknown, p: unknown, d: Delivery) => Promise<void>)(
          unpack(found.type, message.data),
          ports,
          delivery,
        );
      }),
    );
  }
}
