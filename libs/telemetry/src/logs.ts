// Structured logs: one JSON object a line on stdout. The node agent tails stdout, so a service needs no log client.
// Fields of every line: time, level, service, component, msg; requestId and traceId when the work belongs to one.
import { type DestinationStream, type Logger as PinoLogger, pino, stdTimeFunctions } from "pino";
import { currentRequestId, currentTraceId } from "./context.ts";
import { counter } from "./metrics.ts";

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

/** Lines that wait while stdout takes none (a full disk). */
const WAITING_BYTES_MAX = 1024 * 1024;

const droppedLines = counter({
  name: "pilotlight_log_lines_dropped_total",
  help: "Log lines given up because stdout could not be written for too long.",
});

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
  return pino(settings, options.destination ?? standardOutput());
}

/** A process goes on while its log cannot be written: lines wait, within a limit, and are written with the next that can be. */
function standardOutput(): DestinationStream {
  const stdout = pino.destination({ dest: 1, sync: true, maxLength: WAITING_BYTES_MAX });
  stdout.on("error", () => {});
  stdout.on("drop", () => droppedLines.inc());
  return stdout;
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
