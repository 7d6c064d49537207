// Answers that go on: log lines and events as JSON lines. Bounded in number and in what waits for a slow reader (I10).

import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, tail } from "@pilotlight/bus";
import {
  eventOfSubject,
  fromBinary,
  type LogLine,
  timestampFromMs,
  timestampMs,
  toJson,
} from "@pilotlight/contracts";
import type { LogLineView, TailedEvent } from "@pilotlight/control-api";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { counter } from "@pilotlight/telemetry";
import type { FastifyReply } from "fastify";
import * as z from "zod";
import type { Peers } from "../../adapters/peers.ts";
import { logLevelName, logLevelOf } from "../../domain/wire-names.ts";
import type { ApiDoor } from "./door.ts";

/** An error that comes this soon is the answer's status; a later one is its last line. */
const EARLY_ERROR_MS = 250;
/** Bytes that may wait for a slow reader of events; beyond it events are left out. */
const BEHIND_BYTES_MAX = 4 * 1024 * 1024;
const SUBJECT = /^pl\.[A-Za-z0-9_.*-]*[A-Za-z0-9_*>-]$/;
const SUBJECTS_BY_DEFAULT = ["pl.evt.>", "pl.doc.>"];

const leftOut = counter({
  name: "pilotlight_control_tail_left_out_total",
  help: "Events that a slow reader of the tail did not get.",
});

type StreamOptions = { streamsMax: number };

export function streamRoutes(door: ApiDoor, bus: Bus, { logs }: Pick<Peers, "logs">, options: StreamOptions) {
  let open = 0;
  /** Counts a stream until it is closed; refuses one too many. */
  const admit = (reply: FastifyReply): AbortSignal => {
    if (open >= options.streamsMax) {
      throw new PlatformError("resourceExhausted", `${open} streams are open already`, {
        remedy: "Close some, or raise streamsMax.",
        retryAfterMs: 1_000,
      });
    }
    open++;
    const gone = new AbortController();
    reply.raw.once("close", () => {
      open--;
      gone.abort();
    });
    return gone.signal;
  };

  door.get(
    "/v1/logs",
    {
      schema: {
        summary: "Log lines as NDJSON, oldest first; with follow=true new ones as they come.",
        querystring: z.object({
          application: z.string().max(128).optional(),
          version: z.coerce.number().int().min(0).optional(),
          deployment: z.string().max(128).optional(),
          replicaId: z.string().max(128).optional(),
          requestId: z.string().max(128).optional(),
          service: z.string().max(128).optional(),
          level: z.enum(["debug", "info", "warn", "error"]).optional(),
          text: z.string().max(1_024).optional(),
          sinceAt: z.coerce.number().optional().describe("Epoch ms."),
          untilAt: z.coerce.number().optional().describe("Epoch ms."),
          limit: z.coerce.number().int().min(1).max(100_000).default(1_000),
          follow: z.stringbool().default(false),
        }),
      },
    },
    async ({ query }, reply) => {
      const signal = admit(reply);
      const { level, sinceAt, untilAt, ...rest } = query;
      const pages = logs.searchLogs(
        {
          ...withoutUndefined(rest),
          levelMin: logLevelOf(level),
          ...(sinceAt === undefined ? {} : { since: timestampFromMs(sinceAt) }),
          ...(untilAt === undefined ? {} : { until: timestampFromMs(untilAt) }),
        },
        { signal },
      );
      const lines = pages[Symbol.asyncIterator]();
      const first = lines.next();
      // Not later than this the reader learns that the stream is open, though there may be nothing to show yet.
      await Promise.race([first, sleep(EARLY_ERROR_MS, undefined, { ref: false })]);
      return reply.type("application/x-ndjson").send(Readable.from(logLines(first, lines, signal)));
    },
  );

  door.get(
    "/v1/events",
    {
      schema: {
        summary: "Events and documents as they happen, as NDJSON.",
        querystring: z.object({
          subject: z
            .string()
            .max(1_024)
            .optional()
            .describe("Subject filters of NATS, separated by commas; events and documents by default."),
        }),
      },
    },
    async ({ query }, reply) => {
      const subjects = query.subject?.split(",").map((one) => one.trim()) ?? SUBJECTS_BY_DEFAULT;
      const wrong = subjects.find((one) => !SUBJECT.test(one));
      if (wrong !== undefined) {
        throw new PlatformError("invalidArgument", `'${wrong}' is no subject of the platform`, {
          field: "subject",
          remedy: "Write e.g. pl.evt.> or pl.smp.v1.gateway.load.sampled.*",
        });
      }
      const signal = admit(reply);
      return reply.type("application/x-ndjson").send(tailAll(bus, subjects, signal));
    },
  );
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

const withoutUndefined = <T extends object>(value: T): Defined<T> =>
  Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)) as Defined<T>;

async function* logLines(
  first: Promise<IteratorResult<{ lines: LogLine[] }>>,
  rest: AsyncIterator<{ lines: LogLine[] }>,
  signal: AbortSignal,
): AsyncGenerator<string> {
  yield ""; // sends the headers
  try {
    for (let page = await first; !page.done; page = await rest.next())
      yield page.value.lines.map((line) => `${JSON.stringify(logLineView(line))}\n`).join("");
  } catch (thrown) {
    if (!signal.aborted) yield `${JSON.stringify({ error: toPlatformError(thrown) })}\n`;
  } finally {
    await rest.return?.();
  }
}

function logLineView(line: LogLine): LogLineView {
  const { at, level, fieldsJson, $typeName: _, ...rest } = line;
  return {
    ...rest,
    at: at === undefined ? 0 : timestampMs(at),
    level: logLevelName(level),
    fields: fieldsJson === "" ? {} : (JSON.parse(fieldsJson) as Record<string, unknown>),
  };
}

function tailAll(bus: Bus, subjects: readonly string[], signal: AbortSignal): Readable {
  const stream = new Readable({ read() {} });
  const tails = subjects.map((subject) => tail(bus, subject));
  for (const messages of tails) {
    void (async () => {
      for await (const message of messages) {
        if (stream.readableLength > BEHIND_BYTES_MAX) leftOut.inc();
        else stream.push(`${JSON.stringify(tailedEvent(message))}\n`);
      }
    })();
  }
  signal.addEventListener("abort", () => {
    for (const messages of tails) void messages.close();
    stream.destroy();
  });
  return stream;
}

function tailedEvent(message: {
  subject: string;
  headers: Record<string, string>;
  payload: Uint8Array;
}): TailedEvent {
  const found = eventOfSubject(message.subject);
  const { headers } = message;
  return {
    subject: message.subject,
    type: found?.name ?? null,
    id: headers["ce-id"] ?? "",
    source: headers["ce-source"] ?? "",
    at: headers["ce-time"] ?? "",
    data: found === undefined ? null : decoded(found.type.schema, message.payload),
  };
}

function decoded(schema: Parameters<typeof fromBinary>[0], payload: Uint8Array): unknown {
  try {
    return toJson(schema, fromBinary(schema, payload));
  } catch (error) {
    return { unreadable: (error as Error).message };
  }
}
