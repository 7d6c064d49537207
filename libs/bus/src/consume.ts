// Durable consumers. One loop does the acknowledging; handlers only return or throw.
//   C1. A message is acknowledged after its effects are committed, never before.
//   C2. With an inbox, effects and the note of the message's ID commit together: effectively once (I7, way in).
//   C3. A retryable failure comes again after a growing delay; a terminal one, or the last attempt, goes to the dead-letter
//       stream with its reason, so that one bad message never stops the others.
//   C4. Messages that wait together are committed together; if that fails each is tried alone.
import { AckPolicy, type ConsumerMessages, DeliverPolicy, type JsMsg } from "@nats-io/jetstream";
import {
  EVENTS,
  type EventName,
  type EventType,
  eventOfSubject,
  filterOf,
  type MessageOf,
} from "@pilotlight/contracts";
import { backoffMs, PlatformError, type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import type { Store, Transaction } from "@pilotlight/store";
import {
  counter,
  gauge,
  histogram,
  inSpan,
  LATENCY_BUCKETS_S,
  logger,
  withIncomingHeaders,
} from "@pilotlight/telemetry";
import type { Bus } from "./connection.ts";
import { fromNatsHeaders, pack, toNatsHeaders, unpack } from "./envelope.ts";
import { insertRows, type Outbox, type OutboxRow, type PublishInTransaction } from "./outbox.ts";
import { DEAD_LETTER_SUBJECT, STREAM_OF } from "./streams.ts";

/** What a handler knows of its message beside the payload. */
export type Delivery = {
  id: string;
  subject: string;
  /** When the event was published, epoch ms. */
  publishedAt: number;
  /** 1 on the first delivery. */
  attempt: number;
};

/** Inside of a database transaction: what is written and published here commits with the message. */
export type InboxPorts = { tx: Transaction; publish: PublishInTransaction };

type Handlers<Ports> = {
  [Name in EventName]?: (
    message: MessageOf<(typeof EVENTS)[Name]>,
    ports: Ports,
    delivery: Delivery,
  ) => Promise<void> | void;
};

export type ConsumerSettings = {
  /** Name of the durable consumer, unique in the service. */
  name: string;
  /** Only these keys, e.g. `{ node: "node-1" }`. */
  keys?: Record<string, string>;
  /** Where a new consumer begins. */
  from: "beginning" | "now";
  /** Messages in hand at most. */
  inFlightMax?: number;
  /** Attempts, and the delays between them. */
  redelivery?: RetryPolicy;
  /** How long a handler may take before the server thinks it is lost. */
  ackTimeoutMs?: number;
};

const REDELIVERY: RetryPolicy = { attemptsMax: 12, initialDelayMs: 250, delayMsMax: 30_000 };
const ACK_TIMEOUT_MS = 60_000;
const IN_FLIGHT_MAX = 256;
const BATCH_MAX = 128;
const CONSUMER_PATIENCE: RetryPolicy = { attemptsMax: 1_000_000, initialDelayMs: 200, delayMsMax: 2_000 };

const handled = counter({
  name: "pilotlight_bus_handled_total",
  help: "Messages by outcome.",
  labelNames: ["consumer", "outcome"],
});
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

export type Subscription = { close(): Promise<void> };

/** Consumes through the service's database: effects, inbox and outbox commit together. */
export function consumeWithInbox(
  bus: Bus,
  store: Store,
  outbox: Outbox,
  settings: ConsumerSettings,
  handlers: Handlers<InboxPorts>,
): Promise<Subscription> {
  const consumer = `${bus.service}__${settings.name}`;
  return startLoop(bus, settings, handlers as Handlers<never>, async (batch) => {
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
  return startLoop(bus, settings, handlers as Handlers<never>, async (batch) => {
    for (const item of batch) await item.run(undefined);
  });
}

/** Deletes notes of processed messages that the server can no longer deliver. */
export async function sweepInbox(store: Store, keepMs: number): Promise<void> {
  await store.sql`delete from inbox where processed_at < now() - ${keepMs} * interval '1 millisecond'`;
}

type Item = { message: JsMsg; delivery: Delivery; run: (ports: unknown) => Promise<void> };

async function startLoop(
  bus: Bus,
  settings: ConsumerSettings,
  handlers: Handlers<never>,
  commit: (batch: readonly Item[]) => Promise<void>,
): Promise<Subscription> {
  const log = logger("consumer");
  const durable = `${bus.service}__${settings.name}`;
  const types = Object.keys(handlers).map((name) => EVENTS[name as EventName] as EventType);
  const stream = streamOf(types, durable);
  const redelivery = settings.redelivery ?? REDELIVERY;
  await retry(() => ensureConsumer(bus, stream, durable, types, settings), CONSUMER_PATIENCE, {
    shouldRetry: isPassing,
  });

  const queue: JsMsg[] = [];
  let wake: () => void = () => {};
  let closed = false;
  const messages = await openMessages(bus, stream, durable, settings.inFlightMax ?? IN_FLIGHT_MAX);
  const taking = (async () => {
    for await (const message of messages) {
      queue.push(message);
      waiting.set({ consumer: durable }, queue.length);
      wake();
    }
  })();

  const itemOf = (message: JsMsg): Item => {
    const found = eventOfSubject(message.subject);
    const headers = fromNatsHeaders(message.headers);
    const delivery: Delivery = {
      id: headers["ce-id"] ?? headers["nats-msg-id"] ?? `${stream}-${message.seq}`,
      subject: message.subject,
      publishedAt: Date.parse(headers["ce-time"] ?? message.timestamp),
      attempt: message.info.deliveryCount,
    };
    const handler = found === undefined ? undefined : (handlers as Record<string, unknown>)[found.name];
    return {
      message,
      delivery,
      run: (ports) =>
        withIncomingHeaders(headers, () =>
          inSpan(
            `consume ${durable}`,
            { kind: "consumer", attributes: { "messaging.message.id": delivery.id } },
            async () => {
              if (found === undefined || handler === undefined)
                throw new PlatformError("unsupported", `nobody handles ${message.subject}`);
              latency.observe({ consumer: durable }, Math.max(0, Date.now() - delivery.publishedAt) / 1000);
              await (handler as (m: unknown, p: unknown, d: Delivery) => Promise<void>)(
                unpack(found.type, message.data),
                ports,
                delivery,
              );
            },
          ),
        ),
    };
  };

  const finish = async (item: Item, error: PlatformError | undefined): Promise<void> => {
    if (error === undefined) {
      item.message.ack();
      handled.inc({ consumer: durable, outcome: "done" });
    } else if (isPassing(error) && item.delivery.attempt < redelivery.attemptsMax) {
      const delayMs = Math.max(
        backoffMs(redelivery, item.delivery.attempt, Math.random()),
        error.retryAfterMs ?? 0,
      );
      log.warn("handler failed; will try again", {
        consumer: durable,
        subject: item.delivery.subject,
        attempt: item.delivery.attempt,
        delayMs,
        error,
      });
      item.message.nak(delayMs);
      handled.inc({ consumer: durable, outcome: "again" });
    } else {
      log.error("handler failed for good", {
        consumer: durable,
        subject: item.delivery.subject,
        attempt: item.delivery.attempt,
        error,
      });
      await bury(bus, durable, item, error);
      handled.inc({ consumer: durable, outcome: "dead" });
    }
  };

  const process = async (batch: readonly Item[]): Promise<void> => {
    const [only] = batch;
    try {
      await commit(batch);
      for (const item of batch) await finish(item, undefined);
    } catch (thrown) {
      if (batch.length > 1) for (const item of batch) await process([item]);
      else if (only !== undefined) await finish(only, toPlatformError(thrown));
    }
  };

  const working = (async () => {
    while (!closed) {
      if (queue.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      const batch = queue.splice(0, BATCH_MAX).map(itemOf);
      try {
        await process(batch);
      } catch (error) {
        // Even the verdict could not be told (NATS is away): the server delivers again after its own timeout.
        log.warn("could not acknowledge", { consumer: durable, error: toPlatformError(error) });
      }
      waiting.set({ consumer: durable }, queue.length);
    }
  })();

  return {
    async close() {
      closed = true;
      wake();
      await messages.close();
      await taking;
      await working;
      for (const message of queue) message.nak();
    },
  };
}

/** Failures that another attempt can cure. An unforeseen one counts: a bug fixed by a restart must not lose the message. */
const isPassing = (error: PlatformError): boolean =>
  error.retryable || error.code === "internal" || error.code === "conflict";

function streamOf(types: readonly EventType[], durable: string): string {
  const streams = new Set(types.map((type) => (type.kind === "smp" ? "none" : STREAM_OF[type.kind])));
  const [stream] = streams;
  if (streams.size !== 1 || stream === undefined || stream === "none") {
    throw new PlatformError("invalidArgument", `consumer ${durable} must take durable messages of one kind`);
  }
  return stream;
}

async function ensureConsumer(
  bus: Bus,
  stream: string,
  durable: string,
  types: readonly EventType[],
  settings: ConsumerSettings,
): Promise<void> {
  const changeable = {
    filter_subjects: types.map((type) => filterOf(type, settings.keys ?? {})),
    ack_wait: (settings.ackTimeoutMs ?? ACK_TIMEOUT_MS) * 1e6,
    max_ack_pending: (settings.inFlightMax ?? IN_FLIGHT_MAX) * 2,
  };
  const info = await bus.manager.consumers.info(stream, durable).catch(() => undefined);
  if (info !== undefined) {
    await bus.manager.consumers.update(stream, durable, changeable);
    return;
  }
  await bus.manager.consumers.add(stream, {
    ...changeable,
    durable_name: durable,
    ack_policy: AckPolicy.Explicit,
    deliver_policy: settings.from === "now" ? DeliverPolicy.New : DeliverPolicy.All,
    max_deliver: -1, // the loop counts attempts itself, so that the last one reaches the dead-letter stream
  });
}

async function openMessages(
  bus: Bus,
  stream: string,
  durable: string,
  inFlightMax: number,
): Promise<ConsumerMessages> {
  const consumer = await bus.jetstream.consumers.get(stream, durable);
  return consumer.consume({ max_messages: inFlightMax });
}

/** Keeps a message that cannot be handled where people find it, then ends its delivery. */
async function bury(bus: Bus, durable: string, item: Item, error: PlatformError): Promise<void> {
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
