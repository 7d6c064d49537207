// The bus as a part of a service: its settings, and how it connects, reports and closes with the service.

import { count, durationMs, type ServiceContext, text, uri } from "@pilotlight/service";
import type { Store } from "@pilotlight/store";
import { type Bus, connectBus } from "./connection.ts";
import { sweepInbox } from "./consume.ts";
import { type Outbox, startOutbox } from "./outbox.ts";

/** Settings of every service on the bus. */
export const BUS_FIELDS = {
  natsUrl: uri(["nats", "tls"], "nats://127.0.0.1:4222", "NATS server with JetStream."),
  natsCredentialsFile: text("", "NATS credentials file (.creds); empty: none."),
  natsConnectTimeoutMs: durationMs(60_000, "How long to wait for NATS at start."),
  natsStreamReplicas: count(1, "Copies of each stream; 3 on a NATS cluster.", { min: 1, max: 5 }),
};

/** Settings of every service with an outbox. */
export const OUTBOX_FIELDS = {
  outboxSweepIntervalMs: durationMs(
    5_000,
    "How often to look for messages that a killed process left behind.",
    { min: 100 },
  ),
  outboxBatchMax: count(512, "Messages sent together.", { min: 1, max: 10_000 }),
  inboxKeepMs: durationMs(
    8 * 24 * 3_600_000,
    "How long IDs of processed messages are kept; longer than the stream keeps messages.",
  ),
};

type BusConfig = {
  natsUrl: string;
  natsCredentialsFile: string;
  natsConnectTimeoutMs: number;
  natsStreamReplicas: number;
};
type OutboxConfig = { outboxSweepIntervalMs: number; outboxBatchMax: number; inboxKeepMs: number };

const INBOX_SWEEP_INTERVAL_MS = 3_600_000;

/** Connects the service to the bus. */
export async function connectServiceBus(context: ServiceContext<BusConfig>, service: string): Promise<Bus> {
  const { config } = context;
  const bus = await connectBus({
    url: config.natsUrl,
    service,
    connectTimeoutMs: config.natsConnectTimeoutMs,
    streamReplicas: config.natsStreamReplicas,
    credentialsFile: config.natsCredentialsFile,
  });
  context.onStop("bus", bus.close);
  context.addReadiness("bus", bus.check);
  return bus;
}

/** Starts the service's outbox, and the sweep of its inbox. */
export function startServiceOutbox(context: ServiceContext<OutboxConfig>, store: Store, bus: Bus): Outbox {
  const { config } = context;
  const outbox = startOutbox(store, bus, {
    sweepIntervalMs: config.outboxSweepIntervalMs,
    batchMax: config.outboxBatchMax,
  });
  const sweep = setInterval(
    () =>
      void sweepInbox(store, config.inboxKeepMs).catch((error) =>
        context.log.warn("inbox sweep failed", { error }),
      ),
    INBOX_SWEEP_INTERVAL_MS,
  );
  context.onStop("outbox", () => {
    clearInterval(sweep);
    return outbox.close();
  });
  return outbox;
}
