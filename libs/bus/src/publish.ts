// Publishing without a database: for services whose truth is not in PostgreSQL (node agent, worker, gateway).
// Events are acknowledged by JetStream and carry an ID made from the fact itself, so trying again is safe.
import type { EventType } from "@pilotlight/contracts";
import { type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import { counter } from "@pilotlight/telemetry";
import type { Bus } from "./connection.ts";
import { type Envelope, type InitOf, pack, toNatsHeaders } from "./envelope.ts";

const published = counter({
  name: "pilotlight_bus_published_total",
  help: "Messages acknowledged by JetStream.",
  labelNames: ["type"],
});
const samplesDropped = counter({
  name: "pilotlight_bus_samples_dropped_total",
  help: "Samples not sent because NATS was away.",
});

export type PublishOptions = {
  /** ID of the fact: the same fact, the same ID. Random by default. */
  id?: string;
  /** Documents only: forget the value after this long. */
  ttlMs?: number;
  retry?: RetryPolicy;
};

const PATIENCE: RetryPolicy = { attemptsMax: 6, initialDelayMs: 100, delayMsMax: 2_000 };

/** Publishes an event or document and waits until the server keeps it. Throws when it does not within the policy. */
export async function publish<T extends EventType>(
  bus: Bus,
  type: T,
  message: InitOf<T>,
  options: PublishOptions = {},
): Promise<void> {
  const envelope = pack(bus.service, type, message, options.id);
  await retry(() => publishEnvelope(bus, envelope, options.ttlMs), options.retry ?? PATIENCE, {
    shouldRetry: () => true,
  });
}

/** Publishes a packed message once. */
export async function publishEnvelope(bus: Bus, envelope: Envelope, ttlMs?: number): Promise<void> {
  await bus.jetstream.publish(envelope.subject, envelope.payload, {
    msgID: envelope.id,
    headers: toNatsHeaders(envelope.headers),
    ...(ttlMs === undefined ? {} : { ttl: `${Math.max(1, Math.round(ttlMs / 1000))}s` }),
  });
  published.inc({ type: envelope.headers["ce-type"] ?? "unknown" });
}

/** Sends a sample: lossy by design, never stored, dropped while NATS is away. */
export function publishSample<T extends EventType>(bus: Bus, type: T, message: InitOf<T>): void {
  const envelope = pack(bus.service, type, message);
  try {
    if (bus.check() !== undefined) throw toPlatformError(new Error("not connected"));
    bus.connection.publish(envelope.subject, envelope.payload, { headers: toNatsHeaders(envelope.headers) });
  } catch {
    samplesDropped.inc();
  }
}
