// Traces by OpenTelemetry. Every process makes spans, so that trace IDs stand in the logs; they are exported only
// where an OTLP endpoint is configured, and the exporter is loaded only then.
import { context, propagation, type Span, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, type SpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";

export type TracingOptions = {
  service: string;
  /** OTLP over HTTP, e.g. `http://127.0.0.1:4318/v1/traces`; empty: no export. */
  otlpUrl: string;
  /** For tests: where finished spans go. */
  processors?: SpanProcessor[];
};

/** Installs the tracer, the context manager and the propagator of the process. The result flushes and stops. */
export async function startTracing(options: TracingOptions): Promise<() => Promise<void>> {
  const processors =
    options.processors ?? (options.otlpUrl === "" ? [] : [await otlpProcessor(options.otlpUrl)]);
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": options.service, "service.namespace": "pilotlight" }),
    spanProcessors: processors,
  });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  trace.setGlobalTracerProvider(provider);
  return async () => {
    await provider.shutdown();
    trace.disable();
    context.disable();
    propagation.disable();
  };
}

async function otlpProcessor(url: string): Promise<SpanProcessor> {
  const { OTLPTraceExporter } = await import("@opentelemetry/exporter-trace-otlp-http");
  return new BatchSpanProcessor({ exporter: new OTLPTraceExporter({ url }), maxQueueSize: 2048 });
}

export type SpanOptions = {
  kind?: "server" | "client" | "producer" | "consumer" | "internal";
  attributes?: Record<string, string | number | boolean>;
};

const KINDS = {
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  producer: SpanKind.PRODUCER,
  consumer: SpanKind.CONSUMER,
  internal: SpanKind.INTERNAL,
} as const;

/** Runs `work` in a span. A throw marks the span as failed and goes on. */
export async function inSpan<T>(
  name: string,
  options: SpanOptions,
  work: (span: Span) => Promise<T>,
): Promise<T> {
  const tracer = trace.getTracer("pilotlight");
  const settings = { kind: KINDS[options.kind ?? "internal"], attributes: options.attributes ?? {} };
  return tracer.startActiveSpan(name, settings, async (span) => {
    try {
      return await work(span);
    } catch (thrown) {
      span.setStatus({
        code: SpanStatusCode.ERROR,
        message: thrown instanceof Error ? thrown.message : String(thrown),
      });
      throw thrown;
    } finally {
      span.end();
    }
  });
}
