export { connectBusInBackground } from "./background.ts";
export { type Bus, type BusOptions, connectBus } from "./connection.ts";
export {
  consumeIdempotent,
  consumeWithInbox,
  type InboxPorts,
  type Subscription,
  sweepInbox,
} from "./consume.ts";
export type { ConsumerSettings } from "./durable.ts";
export {
  type Outbox,
  type OutboxOptions,
  type PublishInTransaction,
  startOutbox,
} from "./outbox.ts";
export { BUS_FIELDS, connectServiceBus, OUTBOX_FIELDS, startServiceOutbox } from "./part.ts";
export { type PublishOptions, publish, publishSample } from "./publish.ts";
export { BUS_MIGRATION } from "./tables.ts";
export type { Delivery } from "./verdict.ts";
export { type DocumentWatch, type TailedMessage, tail, watchDocuments, watchSamples } from "./watch.ts";
