// What a search looks for, in a form that both sides use: matched against lines in the journal, turned into SQL for segments.
import { LogLevel, type LogLine, type SearchLogsRequest, timestampMs } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";

/** Empty strings, zero and undefined match everything. Times are epoch ms, both included. */
export type Query = {
  application: string;
  version: number;
  deployment: string;
  replicaId: string;
  requestId: string;
  service: string;
  levelMin: LogLevel;
  /** Lower case. */
  text: string;
  since: number | undefined;
  until: number | undefined;
  limit: number;
};

export const LIMIT_DEFAULT = 1_000;
export const LIMIT_MAX = 100_000;
const TEXT_MAX = 1_024;

/** Checks a request. Throws `invalidArgument` that names the field. */
export function queryOf(request: SearchLogsRequest): Query {
  if (request.limit > LIMIT_MAX)
    throw new PlatformError("invalidArgument", `limit ${request.limit} is above ${LIMIT_MAX}`, {
      field: "limit",
      remedy: "Narrow the search by time, request or text.",
    });
  const since = request.since === undefined ? undefined : timestampMs(request.since);
  const until = request.until === undefined ? undefined : timestampMs(request.until);
  if (since !== undefined && until !== undefined && since > until)
    throw new PlatformError("invalidArgument", "since lies after until", { field: "since" });
  for (const field of ["application", "deployment", "replicaId", "requestId", "service", "text"] as const) {
    if (request[field].length > TEXT_MAX)
      throw new PlatformError("invalidArgument", `${field} is longer than ${TEXT_MAX} characters`, { field });
  }
  const { application, version, deployment, replicaId, requestId, service, levelMin, text, limit } = request;
  return {
    application,
    version,
    deployment,
    replicaId,
    requestId,
    service,
    levelMin,
    text: text.toLowerCase(),
    since,
    until,
    limit: limit === 0 ? LIMIT_DEFAULT : limit,
  };
}

/**
 * Whether a line is looked for. Lines of services that know no application (the gateway before it routed) belong to a
 * request all the same: with a request ID the application only keeps other applications' lines out.
 */
export function matches(query: Query, line: LogLine): boolean {
  const at = line.at === undefined ? 0 : timestampMs(line.at);
  const ofApplication = (asked: string | number, has: string | number) =>
    !asked || asked === has || (query.requestId !== "" && !has);
  return (
    (query.requestId === "" || line.requestId === query.requestId) &&
    (query.replicaId === "" || line.replicaId === query.replicaId) &&
    (query.service === "" || line.service === query.service) &&
    ofApplication(query.application, line.application) &&
    ofApplication(query.version, line.version) &&
    ofApplication(query.deployment, line.deployment) &&
    line.level >= query.levelMin &&
    (query.since === undefined || at >= query.since) &&
    (query.until === undefined || at <= query.until) &&
    (query.text === "" ||
      line.message.toLowerCase().includes(query.text) ||
      line.fieldsJson.toLowerCase().includes(query.text))
  );
}

/** Names of levels in segments, from quiet to loud. */
export const LEVEL_NAMES = ["", "debug", "info", "warn", "error"] as const;

/** A condition of SQL with its parameters, for the columns of a segment. */
export function sqlOf(query: Query): { where: string; parameters: (string | number | bigint)[] } {
  const parameters: (string | number | bigint)[] = [];
  const conditions: string[] = [];
  const parameter = (value: string | number | bigint): string => `$${parameters.push(value)}`;
  const equal = (column: string, value: string | number) => {
    if (value) conditions.push(`${column} = ${parameter(value)}`);
  };
  const ofApplication = (column: string, value: string | number, none: string) => {
    if (!value) return;
    const has = `${column} = ${parameter(value)}`;
    conditions.push(query.requestId === "" ? has : `(${has} or ${column} = ${none})`);
  };
  equal("request_id", query.requestId);
  equal("replica_id", query.replicaId);
  equal("service", query.service);
  ofApplication("application", query.application, "''");
  ofApplication("version", query.version, "0");
  ofApplication("deployment", query.deployment, "''");
  if (query.levelMin > LogLevel.DEBUG)
    conditions.push(
      `level in (${LEVEL_NAMES.slice(query.levelMin)
        .map((name) => `'${name}'`)
        .join(", ")})`,
    );
  if (query.since !== undefined)
    conditions.push(`"time" >= make_timestamp(${parameter(BigInt(query.since) * 1000n)}::bigint)`);
  if (query.until !== undefined)
    conditions.push(`"time" < make_timestamp(${parameter(BigInt(query.until + 1) * 1000n)}::bigint)`);
  if (query.text !== "") {
    const text = parameter(query.text);
    conditions.push(`(contains(lower(message), ${text}) or contains(lower(fields), ${text}))`);
  }
  return { where: conditions.length === 0 ? "true" : conditions.join(" and "), parameters };
}
