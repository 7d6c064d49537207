// From a record to a log line: structured ones by their fields, plain ones as they are. What the agent knows for sure (whose
// file it is) wins over what the line says.
import { LogLevel, type LogLineSchema, type MessageInitShape, timestampFromMs } from "@pilotlight/contracts";
import { containerLine } from "./container-line.ts";

export type LogLineInit = MessageInitShape<typeof LogLineSchema>;

/** Whose file a line stands in. */
export type LogOrigin = {
  /** Name for lines that do not say it themselves. */
  service: string;
  stream: "stdout" | "stderr" | "file";
  /** Of Docker's files: what carries this tag, or one below it (`pilotlight/nats`), is taken; all else is somebody else's. */
  containerTag?: string;
  /** Set for a replica's files. */
  replica?: { application: string; version: number; deployment: string; replicaId: string } | undefined;
};

/** Parses a record that was read at `now` (epoch ms). Undefined for output of a container that is none of ours. */
export function parseRecord(record: string, origin: LogOrigin, now: number): LogLineInit | undefined {
  const fields = record.startsWith("{") ? parseObject(record) : undefined;
  if (origin.containerTag !== undefined) {
    const contained = containerLine(fields);
    const [tagged, name] = contained?.tag.split("/", 2) ?? [];
    if (contained === undefined || tagged !== origin.containerTag) return undefined;
    return parseRecord(
      contained.text,
      { service: name ?? origin.service, stream: contained.stream },
      contained.at,
    );
  }
  if (fields === undefined) {
    const level = levelWord(record) ?? (origin.stream === "stderr" ? LogLevel.WARN : LogLevel.INFO);
    return { at: timestampFromMs(now), level, service: origin.service, message: record, ...origin.replica };
  }
  const take = (...names: string[]): unknown => {
    for (const name of names) {
      const value = fields[name];
      if (value === undefined) continue;
      delete fields[name];
      return value;
    }
    return undefined;
  };
  const text = (...names: string[]): string => textOf(take(...names));
  const line = {
    at: timestampFromMs(timeOf(take("time", "timestamp", "ts", "@timestamp")) ?? now),
    level: levelOf(take("level", "severity")) ?? LogLevel.INFO,
    service: text("service") || origin.service,
    component: text("component", "logger"),
    application: text("application"),
    version: versionOf(take("version")),
    deployment: text("deployment"),
    replicaId: text("replicaId", "replica_id"),
    requestId: text("requestId", "request_id"),
    traceId: text("traceId", "trace_id"),
    message: text("msg", "message"),
    ...origin.replica,
  };
  return { ...line, fieldsJson: Object.keys(fields).length === 0 ? "" : JSON.stringify(fields) };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined; // cut, or no JSON after all: kept as it is
  }
}

const textOf = (value: unknown): string =>
  value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);

/** Years 2000 to 2100: what lies outside is no time, but some other number. */
const [TIME_MIN, TIME_MAX] = [946_684_800_000, 4_102_444_800_000];

function timeOf(value: unknown): number | undefined {
  const ms = typeof value === "number" ? value : typeof value === "string" ? Date.parse(value) : Number.NaN;
  return ms >= TIME_MIN && ms <= TIME_MAX ? ms : undefined;
}

const VERSION_MAX = 2 ** 32 - 1;

function versionOf(value: unknown): number {
  const version = Number(value);
  return Number.isInteger(version) && version >= 0 && version <= VERSION_MAX ? version : 0;
}

const LEVELS: Record<string, LogLevel> = {
  trace: LogLevel.DEBUG,
  debug: LogLevel.DEBUG,
  info: LogLevel.INFO,
  notice: LogLevel.INFO,
  warn: LogLevel.WARN,
  warning: LogLevel.WARN,
  error: LogLevel.ERROR,
  critical: LogLevel.ERROR,
  fatal: LogLevel.ERROR,
  panic: LogLevel.ERROR,
};

/** Words, or pino's numbers (10 trace … 60 fatal). */
function levelOf(value: unknown): LogLevel | undefined {
  if (typeof value === "number") {
    if (value < 30) return LogLevel.DEBUG;
    return value < 40 ? LogLevel.INFO : value < 50 ? LogLevel.WARN : LogLevel.ERROR;
  }
  return typeof value === "string" ? LEVELS[value.toLowerCase()] : undefined;
}

const HEAD_CHARACTERS = 80;

/** The level that a plain line names in capitals near its beginning, as Python, Rust and C++ loggers do. */
function levelWord(record: string): LogLevel | undefined {
  const word = /\b(TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b/.exec(
    record.slice(0, HEAD_CHARACTERS),
  )?.[1];
  return word === undefined ? undefined : LEVELS[word.toLowerCase()];
}
