// What the streamer says about its loads: events for other services, samples of progress, metrics, log lines. A load that was
// served from the node's memory is told too: it is where the time of a warm start went.
import { type Bus, publish, publishSample } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import { counter, histogram, LATENCY_BUCKETS_S, logger } from "@pilotlight/telemetry";
import type { WeightsEvent } from "@pilotlight/weights";
import { type LoadReporter, wireProgress } from "./handlers/load-weights.ts";

const fetched = counter({
  name: "pilotlight_weights_fetched_bytes_total",
  help: "Bytes of weights that came over the wire.",
});
const loads = counter({
  name: "pilotlight_weights_loads_total",
  help: "Loads by outcome.",
  labelNames: ["outcome"],
});
const seconds = histogram({
  name: "pilotlight_weights_load_seconds",
  help: "Asked to complete.",
  buckets: LATENCY_BUCKETS_S,
});

/** Reports to the bus as this node. */
export function createReporter(bus: Bus, nodeId: string): LoadReporter {
  const log = logger("loads");
  const quietly = (sending: Promise<void>) =>
    sending.catch((error) => log.warn("event not sent", { error: toPlatformError(error) }));
  return (source: string) => {
    let bytes = 0;
    const event = (event: WeightsEvent) => {
      if (event.kind === "opened") {
        bytes = event.bytesTotal;
        log.info("loading weights", {
          source,
          bytesTotal: event.bytesTotal,
          tensors: event.tensors.length,
          cached: event.cached,
        });
      } else if (event.kind === "progress") {
        publishSample(bus, EVENTS.weightsProgressed, { nodeId, source, ...wireProgress(event) });
      } else if (event.kind === "complete") {
        fetched.inc(event.bytesFetched);
        loads.inc({ outcome: event.bytesFetched > 0 ? "fetched" : "held" });
        seconds.observe(event.durationMs / 1000);
        log.info("weights loaded", {
          source,
          bytes,
          bytesFetched: event.bytesFetched,
          durationMs: event.durationMs,
        });
        void quietly(
          publish(bus, EVENTS.weightsLoaded, {
            nodeId,
            source,
            bytes: BigInt(bytes),
            bytesFetched: BigInt(event.bytesFetched),
            durationMs: Math.round(event.durationMs),
          }),
        );
      }
    };
    const failed = (thrown: unknown) => {
      const error = toPlatformError(thrown);
      loads.inc({ outcome: "failed" });
      log.warn("weights not loaded", { source, error });
      const failure = { code: error.code, message: error.message, remedy: error.remedy ?? "" };
      void quietly(publish(bus, EVENTS.weightsFailed, { nodeId, source, failure }));
    };
    return { event, failed };
  };
}
