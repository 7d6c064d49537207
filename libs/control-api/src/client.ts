// A typed client of control's HTTP API. Answers are checked against the schemas; errors come back as the platform's own.
import { ERROR_CODES, type ErrorCode, PlatformError, retry, toPlatformError } from "@pilotlight/errors";
import * as z from "zod";
import {
  activation,
  applicationDetail,
  applicationSummary,
  decision,
  deleted,
  deployResult,
  errorBody,
  image,
  logLine,
  model,
  node,
  type ProblemView,
  replay,
  replica,
  revoked,
  rollout,
  status,
  tailedEvent,
  waterfall,
  weights,
} from "./schemas.ts";

export type ControlClientOptions = {
  /** e.g. `http://127.0.0.1:7401` */
  url: string;
  /** Bearer token, where control asks for one. */
  token?: string | undefined;
  /** Longest wait for an answer that is not a stream. */
  timeoutMs: number;
};

/** Which log lines; what is left out matches everything. */
export type LogQuery = {
  application?: string | undefined;
  version?: number | undefined;
  deployment?: string | undefined;
  replicaId?: string | undefined;
  requestId?: string | undefined;
  service?: string | undefined;
  /** This level and louder. */
  level?: string | undefined;
  text?: string | undefined;
  sinceAt?: number | undefined;
  untilAt?: number | undefined;
  limit?: number | undefined;
  follow?: boolean | undefined;
};

/** Every problem of an application file, beside the error that says there are some. */
export type FileProblems = { problems: ProblemView[] };

export type ControlClient = ReturnType<typeof controlClient>;

type Call = {
  method?: "GET" | "POST" | "DELETE";
  query?: Record<string, string | number | boolean | undefined>;
  body?: { type: string; text: string };
  signal?: AbortSignal | undefined;
  /** Doing it twice is doing it once. What only reads is so anyway. */
  repeatable?: boolean;
};

/** What can be repeated is asked again: control may restart while somebody deploys and watches. */
const RESTART_RETRY = { attemptsMax: 4, initialDelayMs: 200, delayMsMax: 1_000 };

/** A client of the control service at `options.url`. */
export function controlClient(options: ControlClientOptions) {
  const ask = async <T>(schema: z.ZodType<T>, path: string, call: Call = {}): Promise<T> => {
    const once = async (): Promise<T> => {
      const signals = [AbortSignal.timeout(options.timeoutMs), ...(call.signal ? [call.signal] : [])];
      const response = await send(options, path, { ...call, signal: AbortSignal.any(signals) });
      return readAnswer(schema, response, options.url);
    };
    if ((call.method ?? "GET") !== "GET" && call.repeatable !== true) return once();
    return retry(once, RESTART_RETRY, {
      shouldRetry: ({ code }) => code === "unavailable",
      ...(call.signal === undefined ? {} : { signal: call.signal }),
    });
  };
  const name = encodeURIComponent;
  return {
    deploy: (text: string, { dryRun }: { dryRun: boolean }) =>
      ask(deployResult, "/v1/applications", {
        method: "POST",
        query: { dryRun },
        body: { type: "application/yaml", text },
        // The same file again is no new version.
        repeatable: true,
      }),
    applications: () => ask(z.array(applicationSummary), "/v1/applications"),
    application: (application: string) => ask(applicationDetail, `/v1/applications/${name(application)}`),
    rollback: (application: string, version: number | undefined) =>
      ask(activation, `/v1/applications/${name(application)}/rollback`, {
        method: "POST",
        body: {
          type: "application/json",
          text: JSON.stringify(version === undefined ? {} : { version }),
        },
      }),
    deleteApplication: (application: string) =>
      ask(deleted, `/v1/applications/${name(application)}`, { method: "DELETE" }),
    waterfalls: (application: string, limit?: number) =>
      ask(z.array(waterfall), `/v1/applications/${name(application)}/waterfall`, { query: { limit } }),
    replica: (replicaId: string) => ask(replica, `/v1/replicas/${name(replicaId)}`),
    waterfall: (replicaId: string) => ask(waterfall, `/v1/replicas/${name(replicaId)}/waterfall`),
    status: () => ask(status, "/v1/status"),
    rollouts: (application?: string) => ask(z.array(rollout), "/v1/rollouts", { query: { application } }),
    nodes: () => ask(z.array(node), "/v1/nodes"),
    images: () => ask(z.array(image), "/v1/images"),
    /** Has an image converted; its progress is in `images`. */
    convertImage: (reference: string, platform?: string) =>
      ask(image, "/v1/images", {
        method: "POST",
        body: { type: "application/json", text: JSON.stringify({ image: reference, platform }) },
      }),
    models: () => ask(z.array(model), "/v1/models"),
    model: (source: string) => ask(model, "/v1/models/one", { query: { source } }),
    /** In the name of whoever the token stands for. */
    approveModel: (source: string, note: string) =>
      ask(model, "/v1/models/approvals", {
        method: "POST",
        body: { type: "application/json", text: JSON.stringify({ source, note }) },
      }),
    revokeModel: (source: string) =>
      ask(revoked, "/v1/models/approvals", { method: "DELETE", query: { source } }),
    weights: () => ask(z.array(weights), "/v1/weights"),
    decisions: (query: { application?: string | undefined; limit?: number | undefined }) =>
      ask(z.array(decision), "/v1/decisions", { query }),
    replay: (decisionId: string) =>
      ask(replay, `/v1/decisions/${name(decisionId)}/replay`, { method: "POST" }),
    logs: (query: LogQuery, signal?: AbortSignal) =>
      lines(logLine, options, "/v1/logs", { query: { ...query }, signal }),
    events: (subject: string | undefined, signal?: AbortSignal) =>
      lines(tailedEvent, options, "/v1/events", { query: { subject }, signal }),
  };
}

async function send(options: ControlClientOptions, path: string, call: Call): Promise<Response> {
  const url = new URL(path, options.url);
  for (const [key, value] of Object.entries(call.query ?? {}))
    if (value !== undefined) url.searchParams.set(key, String(value));
  try {
    return await fetch(url, {
      method: call.method ?? "GET",
      headers: {
        ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
        ...(call.body === undefined ? {} : { "content-type": call.body.type }),
      },
      ...(call.body === undefined ? {} : { body: call.body.text }),
      ...(call.signal === undefined ? {} : { signal: call.signal }),
    });
  } catch (thrown) {
    const error = toPlatformError(thrown);
    if (error.code === "cancelled") throw error;
    throw new PlatformError(
      error.code === "deadlineExceeded" ? "deadlineExceeded" : "unavailable",
      `the platform does not answer at ${options.url}`,
      {
        remedy: "Start it with 'npm start', or name its address with --url or PILOTLIGHT_URL.",
        cause: thrown,
      },
    );
  }
}

async function readAnswer<T>(schema: z.ZodType<T>, response: Response, url: string): Promise<T> {
  if (!response.ok) throw await errorOf(response, url);
  const result = schema.safeParse(await response.json());
  if (result.success) return result.data;
  throw new PlatformError(
    "corrupt",
    `${url} gave an answer of another form: ${z.prettifyError(result.error)}`,
    {
      remedy: "Use a command line and a platform of the same version.",
    },
  );
}

async function errorOf(response: Response, url: string): Promise<PlatformError> {
  const text = await response.text();
  const parsed = errorBody.safeParse(parseJson(text));
  if (!parsed.success) {
    return new PlatformError("unavailable", `${url} answered ${response.status}, not as the platform does`, {
      remedy: "Check the address: it must be that of the control service.",
    });
  }
  const { code, message, problems, ...rest } = parsed.data.error;
  const known: ErrorCode = code in ERROR_CODES ? (code as ErrorCode) : "internal";
  const details = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  const error = new PlatformError(known, message, details);
  return problems === undefined ? error : Object.assign(error, { problems });
}

/** Reads a stream of JSON lines; ends when the server ends it or the signal is aborted. */
async function* lines<T>(
  schema: z.ZodType<T>,
  options: ControlClientOptions,
  path: string,
  call: Call,
): AsyncGenerator<T> {
  const response = await send(options, path, call);
  if (!response.ok || response.body === null) throw await errorOf(response, options.url);
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for await (const chunk of response.body) {
      const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = parts.pop() ?? "";
      for (const part of parts) if (part !== "") yield readLine(schema, part);
    }
  } catch (thrown) {
    if (call.signal?.aborted) return;
    throw toPlatformError(thrown);
  }
}

/** A line is a value, or the error that ended the stream. */
function readLine<T>(schema: z.ZodType<T>, line: string): T {
  const value = parseJson(line);
  const failed = errorBody.safeParse(value);
  if (failed.success) {
    const { code, message, remedy } = failed.data.error;
    throw new PlatformError(
      code in ERROR_CODES ? (code as ErrorCode) : "internal",
      message,
      remedy ? { remedy } : {},
    );
  }
  return schema.parse(value);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
