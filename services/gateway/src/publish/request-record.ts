// What is left of a finished request: one log line, the metrics, and the fact on the bus.
import { type Bus, publishSample } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import { counter, histogram, LATENCY_BUCKETS_S, logger } from "@pilotlight/telemetry";
import type { LoadBook } from "../domain/load.ts";
import type { Exchange } from "../forward/exchange.ts";

const LABELS = ["application", "deployment", "version"] as const;

const finished = counter({
  name: "pilotlight_gateway_requests_total",
  help: "Requests that are over, by status class.",
  labelNames: [...LABELS, "status"],
});
const durations = histogram({
  name: "pilotlight_gateway_request_duration_seconds",
  help: "From accepted to the last byte.",
  labelNames: LABELS,
  buckets: LATENCY_BUCKETS_S,
});
const firstBytes = histogram({
  name: "pilotlight_gateway_time_to_first_token_seconds",
  help: "From accepted to the first byte of the answer.",
  labelNames: LABELS,
  buckets: LATENCY_BUCKETS_S,
});
const continued = counter({
  name: "pilotlight_gateway_continuations_total",
  help: "Streams that went on at another replica after a part was sent.",
  labelNames: ["application", "deployment"],
});

export type RecorderPorts = { book: LoadBook; bus: () => Bus | undefined; requestFactsPerSecondMax: number };

/** Lowest status that counts as the platform's fault; 501 is the request's own. */
const STATUS_FAILURE_MIN = 500;
const STATUS_UNSUPPORTED = 501;

/** Keeps record of finished requests. */
export function createRecorder(ports: RecorderPorts): (exchange: Exchange) => void {
  const log = logger("request");
  const facts = { second: 0, count: 0 };
  return (exchange) => {
    const now = Date.now();
    const { endpoint, replica, status } = exchange;
    const isFailure = status >= STATUS_FAILURE_MIN && status !== STATUS_UNSUPPORTED;
    const durationMs = now - exchange.acceptedAt;
    const ttftMs = exchange.firstByteAt === null ? durationMs : exchange.firstByteAt - exchange.acceptedAt;
    ports.book.ended(endpoint, replica?.versionNumber ?? null, isFailure);
    const labels = {
      application: endpoint.application,
      deployment: endpoint.deployment,
      version: replica?.version ?? "none",
    };
    finished.inc({ ...labels, status: `${Math.floor(status / 100)}xx` });
    durations.observe(labels, durationMs / 1000);
    if (exchange.firstByteAt !== null) firstBytes.observe(labels, ttftMs / 1000);
    if (exchange.continuations > 0) {
      const { application, deployment } = endpoint;
      continued.inc({ application, deployment }, exchange.continuations);
    }
    log[isFailure ? "warn" : "info"]("request", {
      application: endpoint.application,
      deployment: endpoint.deployment,
      ...(replica === null ? {} : { version: replica.versionNumber, replicaId: replica.replicaId }),
      path: exchange.path,
      status,
      stream: exchange.isStream,
      ttftMs,
      durationMs,
      attempts: exchange.attempts,
      continuations: exchange.continuations,
      promptTokens: exchange.promptTokens,
      completionTokens: exchange.completionTokens,
      ...(exchange.keyName === null ? {} : { apiKey: exchange.keyName }),
      ...(exchange.error === null ? {} : { error: exchange.error.message }),
    });
    if (mayTell(facts, now, ports.requestFactsPerSecondMax)) tell(ports.bus(), exchange, ttftMs, durationMs);
  };
}

function tell(bus: Bus | undefined, exchange: Exchange, ttftMs: number, durationMs: number): void {
  if (bus === undefined) return;
  publishSample(bus, EVENTS.requestFinished, {
    requestId: exchange.requestId,
    application: exchange.endpoint.application,
    deployment: exchange.endpoint.deployment,
    version: exchange.replica?.versionNumber ?? 0,
    replicaId: exchange.replica?.replicaId ?? "",
    status: exchange.status,
    ttftMs,
    durationMs,
    promptTokens: exchange.promptTokens,
    completionTokens: exchange.completionTokens,
    attempts: exchange.attempts,
  });
}

/** The first ones of each second, whatever became of them: shares of failures stay what they are. */
function mayTell(facts: { second: number; count: number }, now: number, perSecondMax: number): boolean {
  const second = Math.floor(now / 1000);
  if (second !== facts.second) {
    facts.second = second;
    facts.count = 0;
  }
  return ++facts.count <= perSecondMax;
}
