// A service's connection to PostgreSQL: a small pool whose search path is the service's own schema, so that no query
// can reach another service's tables by accident. Queries are postgres.js templates; there is no ORM.
import { PlatformError, type RetryPolicy, retry, toPlatformError } from "@pilotlight/errors";
import { gauge, logger } from "@pilotlight/telemetry";
import postgres from "postgres";
import { transactionOutliving } from "./lost-connection.ts";
import { type Migration, migrate } from "./migrate.ts";

/** int8 columns and parameters are `bigint`. */
type Types = { bigint: bigint };
export type Sql = postgres.Sql<Types>;
export type Transaction = postgres.TransactionSql<Types>;
/** Either: for statements that run inside and outside of a transaction. */
export type Queryable = postgres.ISql<Types>;

export type StoreOptions = {
  url: string;
  /** The service's schema, e.g. `autoscaler`. Made when it is not there. */
  schema: string;
  migrations: readonly Migration[];
  connectionsMax: number;
  /** How long to wait for the database at start. */
  connectTimeoutMs: number;
};

export type Store = {
  readonly sql: Sql;
  /**
   * A connection of its own, for what lives as long as a session: advisory locks. `onLost` is called when it broke or was
   * ended; the lock is gone then. It is ended with `end`.
   */
  session(onLost: () => void): Sql;
  /** Commits when `work` resolves, rolls back when it throws. */
  transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T>;
  /** undefined when the database answers, otherwise what is wrong. For readiness. */
  check(): Promise<string | undefined>;
  close(): Promise<void>;
};

/** Idle connections are given back: what looks every few seconds (outbox, leadership) then keeps one, not all in turn. */
const IDLE_TIMEOUT_S = 8;
const CLOSE_TIMEOUT_S = 5;

const connections = gauge({
  name: "pilotlight_store_connections_max",
  help: "Limit of the connection pool.",
});

/** Connects, brings the schema up to date and gives the store. Waits for a database that is still starting. */
export async function openStore(options: StoreOptions): Promise<Store> {
  if (!/^[a-z][a-z0-9_]{0,62}$/.test(options.schema)) {
    throw new PlatformError("invalidArgument", `'${options.schema}' is not a schema name`, {
      field: "schema",
    });
  }
  const log = logger("store");
  const settings = {
    idle_timeout: IDLE_TIMEOUT_S,
    connect_timeout: 10,
    connection: { search_path: options.schema, application_name: `pilotlight-${options.schema}` },
    onnotice: () => {},
    // Back-off while the database is away; queries wait in the pool's queue meanwhile.
    backoff: (attempt: number) => Math.min(2, 0.05 * 2 ** attempt),
    types: { bigint: postgres.BigInt },
  };
  const sql = postgres(options.url, { ...settings, max: options.connectionsMax });
  connections.set(options.connectionsMax);
  const patience: RetryPolicy = {
    attemptsMax: Math.max(1, Math.ceil(options.connectTimeoutMs / 1_000)),
    initialDelayMs: 250,
    delayMsMax: 1_000,
  };
  try {
    await retry(() => migrate(sql, options.schema, options.migrations), patience, {
      shouldRetry: isConnectionProblem,
      onRetry: (error) => log.warn("waiting for the database", { error }),
    });
  } catch (thrown) {
    await sql.end({ timeout: 1 });
    const error = toPlatformError(thrown);
    if (!isConnectionProblem(error)) throw error;
    throw new PlatformError("unavailable", `the database does not answer: ${error.message}`, {
      remedy: "Start PostgreSQL, or correct POSTGRES_URL.",
      cause: error,
    });
  }
  return {
    sql,
    session: (onLost) => postgres(options.url, { ...settings, max: 1, idle_timeout: 0, onclose: onLost }),
    transaction: (work) => transactionOutliving(sql, work),
    async check() {
      await sql`select 1`;
      return undefined;
    },
    close: () => sql.end({ timeout: CLOSE_TIMEOUT_S }),
  };
}

/** SQLSTATE class 57P: the server is starting or stopping. */
function isConnectionProblem(error: PlatformError): boolean {
  const state = (error.cause as { code?: unknown } | undefined)?.code;
  return (
    error.retryable || (typeof state === "string" && (state.startsWith("57P") || state.startsWith("08")))
  );
}
