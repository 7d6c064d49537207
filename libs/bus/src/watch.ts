// Reading without acknowledging: documents (the latest value of every key, then each change), samples (as they fly by), and
// the tail of everything for people.
import { DeliverPolicy, type OrderedConsumerOptions } from "@nats-io/jetstream";
import type { Subscription as NatsSubscription } from "@nats-io/nats-core";
import { type EventType, eventOfSubject, filterOf, type MessageOf } from "@pilotlight/contracts";
import { type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import { counter, logger } from "@pilotlight/telemetry";
import type { Bus } from "./connection.ts";
import type { Subscription } from "./consume.ts";
import { PULLING } from "./durable.ts";
import { fromNatsHeaders, unpack } from "./envelope.ts";
import { STREAM_OF } from "./streams.ts";

const PATIENCE: RetryPolicy = { attemptsMax: 1_000_000, initialDelayMs: 200, delayMsMax: 2_000 };

const refused = counter({
  name: "pilotlight_bus_unreadable_total",
  help: "Messages that were no valid payload.",
  labelNames: ["type"],
});

export type DocumentWatch = Subscription & {
  /** Resolves when every value that existed at the start was handed over. */
  readonly current: Promise<void>;
};

/**
 * Hands over the latest value of every key of a document, then every change, in order. Survives reconnects by itself and
 * then hands values over again, so `apply` must take a value twice.
 */
export async function watchDocuments<T extends EventType>(
  bus: Bus,
  type: T,
  keys: Record<string, string>,
  apply: (message: MessageOf<T>) => void,
): Promise<DocumentWatch> {
  const log = logger("documents");
  const options: Partial<OrderedConsumerOptions> = {
    filter_subjects: filterOf(type, keys),
    deliver_policy: DeliverPolicy.LastPerSubject,
  };
  const consumer = await retry(() => bus.jetstream.consumers.get(STREAM_OF.doc, options), PATIENCE, {
    shouldRetry: () => true,
  });
  let reachCurrent: () => void = () => {};
  const current = new Promise<void>((resolve) => {
    reachCurrent = resolve;
  });
  if ((await consumer.info()).num_pending === 0) reachCurrent();
  const messages = await consumer.consume(PULLING);
  const reading = (async () => {
    for await (const message of messages) {
      try {
        apply(unpack(type, message.data));
      } catch (error) {
        refused.inc({ type: type.event });
        log.error("document refused", { subject: message.subject, error: toPlatformError(error) });
      }
      if (message.info.pending === 0) reachCurrent();
    }
  })();
  return {
    current,
    async close() {
      await messages.close();
      await reading;
    },
  };
}

/** Hands over samples as they come. What comes while the process is slow or away is lost, by design. */
export function watchSamples<T extends EventType>(
  bus: Bus,
  type: T,
  keys: Record<string, string>,
  apply: (message: MessageOf<T>) => void,
): Subscription {
  const subscription = bus.connection.subscribe(filterOf(type, keys), {
    callback: (error, message) => {
      if (error !== null) return;
      try {
        apply(unpack(type, message.data));
      } catch {
        refused.inc({ type: type.event });
      }
    },
  });
  return { close: async () => subscription.unsubscribe() };
}

/** One message of the tail, as it was on the wire. */
export type TailedMessage = {
  subject: string;
  headers: Record<string, string>;
  type: EventType | undefined;
  payload: Uint8Array;
};

/** Everything that matches a subject filter from now on: events, documents, samples and log batches alike. */
export function tail(
  bus: Pick<Bus, "connection">,
  subjectFilter: string,
): AsyncIterable<TailedMessage> & Subscription {
  const subscription: NatsSubscription = bus.connection.subscribe(subjectFilter);
  async function* messages(): AsyncGenerator<TailedMessage> {
    for await (const message of subscription) {
      yield {
        subject: message.subject,
        headers: fromNatsHeaders(message.headers),
        type: eventOfSubject(message.subject)?.type,
        payload: message.data,
      };
    }
  }
  return { [Symbol.asyncIterator]: messages, close: async () => subscription.unsubscribe() };
}
