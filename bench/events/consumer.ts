// The consuming service of the events benchmark, as a process of its own: tells its parent when a handler was entered
// (latency) or how many were (throughput).
import { connectBus, consumeWithInbox, startOutbox } from "@pilotlight/bus";
import { openBenchStore } from "./store.ts";

const { NATS_URL = "", POSTGRES_URL = "", MODE = "latency" } = process.env;
const bus = await connectBus({
  url: NATS_URL,
  service: "consumer",
  connectTimeoutMs: 10_000,
  streamReplicas: 1,
});
const store = await openBenchStore(POSTGRES_URL, "consumer");
const outbox = startOutbox(store, bus, { sweepIntervalMs: 5_000, batchMax: 512 });
let handled = 0;
await consumeWithInbox(
  bus,
  store,
  outbox,
  { name: MODE, from: "now" },
  {
    applicationDeleted: () => {
      handled++;
      if (MODE === "latency") process.send?.({ enteredAt: performance.timeOrigin + performance.now() });
    },
  },
);
process.send?.({ ready: true });
if (MODE === "throughput") setInterval(() => process.send?.({ handled }), 20);
