// The server's side of a durable consumer: which stream, which subjects, how it begins.
import { AckPolicy, type ConsumerMessages, DeliverPolicy } from "@nats-io/jetstream";
import { type EventType, filterOf } from "@pilotlight/contracts";
import { PlatformError, type RetryPolicy, retry } from "@pilotlight/errors";
import type { Bus } from "./connection.ts";
import { STREAM_OF } from "./streams.ts";

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

const ACK_TIMEOUT_MS = 60_000;
const IN_FLIGHT_MAX = 512;
/**
 * `expires`: how long the server keeps a request for messages; so long, too, the client waits before it asks again when the
 * server was back before its streams were. `idle_heartbeat`: two that are missed say that a request was lost. The client's
 * own defaults, 30 s and 15 s, would let everything stand still for as long after a restart of the server.
 */
export const PULLING = { expires: 3_000, idle_heartbeat: 1_000 };
const PATIENCE: RetryPolicy = { attemptsMax: 1_000_000, initialDelayMs: 200, delayMsMax: 2_000 };

/** Makes or updates the consumer and starts taking messages. Waits while NATS is away. */
export async function openDurable(
  bus: Bus,
  durable: string,
  types: readonly EventType[],
  settings: ConsumerSettings,
): Promise<ConsumerMessages> {
  const stream = streamOf(types, durable);
  const passing = (error: PlatformError) => error.retryable || error.code === "internal";
  await retry(() => ensureConsumer(bus, stream, durable, types, settings), PATIENCE, {
    shouldRetry: passing,
  });
  const consumer = await bus.jetstream.consumers.get(stream, durable);
  return consumer.consume({ max_messages: settings.inFlightMax ?? IN_FLIGHT_MAX, ...PULLING });
}

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
