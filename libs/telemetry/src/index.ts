export {
  currentRequestId,
  currentTraceId,
  isRequestId,
  outgoingHeaders,
  REQUEST_ID_HEADER,
  withIncomingHeaders,
  withRequestId,
} from "./context.ts";
export {
  configureLogging,
  LOG_LEVELS,
  type LogFields,
  type Logger,
  type LoggingOptions,
  type LogLevel,
  logger,
} from "./logs.ts";
export { counter, gauge, histogram, LATENCY_BUCKETS_S, registry, startMetrics } from "./metrics.ts";
export { inSpan, type SpanOptions, startTracing, type TracingOptions } from "./traces.ts";
