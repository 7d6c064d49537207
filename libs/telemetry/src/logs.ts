// Structured logs: one JSON object a line on stdout. The node agent tails stdout, so a service needs no log client.
// Fields of every line: time, level, service, component, msg; requestId and traceId when the work belongs to one.
import { type DestinationStream, type Logger as PinoLogger, pino, stdTimeFunctions } from "pino";
import { currentRequestId, currentTraceId } from "./context.ts";

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFields = Record<string, unknown>;

export type Logger = {
  [Level in LogLevel]: (message: string, fields?: LogFields) => void;
};

export type LoggingOptions = {
  service: string;
  level: LogLevel;
  /** Fields of every line, e.g. `replicaId`. */
  fields?: LogFields;
  /** Where the lines go; stdout by default. */
  destination?: DestinationStream;
};

let root: PinoLogger = makeRoot({ service: "unnamed", level: "error" });

/** Called once by `runService`; before that only errors are written. */
export function configureLogging(options: LoggingOptions): void {
  root = makeRoot(options);
}

function makeRoot(options: LoggingOptions): PinoLogger {
  const settings = {
    level: options.level,
    base: { service: options.service, ...options.fields },
    messageKey: "msg",
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    mixin: contextFields,
    // Whatever a caller logs by mistake, credentials stay inside.
    redact: {
      paths: ["*.authorization", "authorization", "*.password", "password", "*.secret", "*.token", "token"],
    },
  };
  return options.destination === undefined ? pino(settings) : pino(settings, options.destination);
}

function contextFields(): LogFields {
  const requestId = currentRequestId();
  const traceId = currentTraceId();
  if (requestId === undefined && traceId === undefined) return {};
  return { ...(requestId === undefined ? {} : { requestId }), ...(traceId === undefined ? {} : { traceId }) };
}

/** The logger of one part of a process. An `Error` under `error` is written with message, code, remedy, stack and causes. */
export function logger(component: string): Logger {
  const write = (level: LogLevel) => (message: string, fields?: LogFields) => {
    if (!root.isLevelEnabled(level)) return;
    root[level]({ component, ...(fields === undefined ? {} : describeErrors(fields)) }, message);
  };
  return { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
}

function describeErrors(fields: LogFields): LogFields {
  if (!(fields.error instanceof Error)) return fields;
  return { ...fields, error: describeError(fields.error) };
}

function describeError(error: Error, depth = 0): LogFields {
  const { code, remedy, field } = error as { code?: unknown; remedy?: unknown; field?: unknown };
  return {
    message: error.message,
    ...(code === undefined ? {} : { code }),
    ...(field === undefined ? {} : { field }),
    ...(remedy === undefined ? {} : { remedy }),
    ...(depth === 0 ? { stack: error.stack } : {}),
    ...(error.cause instanceof Error && depth < 4 ? { cause: describeError(error.cause, depth + 1) } : {}),
  };
}
