// What travels with a piece of work: the request ID and the trace. It crosses HTTP, gRPC and NATS as plain
// headers (`x-request-id`, and `traceparent` after https://www.w3.org/TR/trace-context/).
import { type Context, context, createContextKey, propagation, trace } from "@opentelemetry/api";

const REQUEST_ID = createContextKey("pilotlight.request_id");

export const REQUEST_ID_HEADER = "x-request-id";
const REQUEST_ID_FORM = /^[A-Za-z0-9_.:-]{1,128}$/;

/** True for a request ID that may be taken over from outside: it can go into logs, headers and subjects safely. */
export const isRequestId = (value: unknown): value is string =>
  typeof value === "string" && REQUEST_ID_FORM.test(value);

/** The request ID of the current work, if it belongs to a request. */
export const currentRequestId = (): string | undefined =>
  context.active().getValue(REQUEST_ID) as string | undefined;

/** The trace ID of the current work, if it is traced. */
export const currentTraceId = (): string | undefined => trace.getSpanContext(context.active())?.traceId;

/** Runs `work` as part of a request. */
export function withRequestId<T>(requestId: string, work: () => T): T {
  return context.with(context.active().setValue(REQUEST_ID, requestId), work);
}

/** Headers that carry the current context to another process. */
export function outgoingHeaders(): Record<string, string> {
  const headers: Record<string, string> = {};
  propagation.inject(context.active(), headers);
  const requestId = currentRequestId();
  if (requestId !== undefined) headers[REQUEST_ID_HEADER] = requestId;
  return headers;
}

/** Runs `work` in the context that came in `headers` (lower-case names). */
export function withIncomingHeaders<T>(headers: Record<string, unknown>, work: () => T): T {
  return context.with(incomingContext(headers), work);
}

function incomingContext(headers: Record<string, unknown>): Context {
  const extracted = propagation.extract(context.active(), headers);
  const requestId = headers[REQUEST_ID_HEADER];
  return isRequestId(requestId) ? extracted.setValue(REQUEST_ID, requestId) : extracted;
}
