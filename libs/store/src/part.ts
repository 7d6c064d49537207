// The store as a part of a service: its settings, and how it opens, reports and closes with the service.
import { count, durationMs, type ServiceContext, uri } from "@pilotlight/service";
import { type Migration, readMigrations } from "./migrate.ts";
import { openStore, type Store } from "./store.ts";

/** Settings of every service with a database. */
export const STORE_FIELDS = {
  postgresUrl: uri(
    ["postgres", "postgresql"],
    undefined,
    "PostgreSQL, e.g. postgres://user:password@host:5432/pilotlight.",
    { secret: true },
  ),
  postgresConnectionsMax: count(4, "Connections of this process to PostgreSQL.", { min: 2, max: 100 }),
  postgresConnectTimeoutMs: durationMs(60_000, "How long to wait for PostgreSQL at start."),
};

type StoreConfig = { postgresUrl: string; postgresConnectionsMax: number; postgresConnectTimeoutMs: number };

/** Opens the service's schema; `leading` migrations come before those of the folder. */
export async function openServiceStore(
  context: ServiceContext<StoreConfig>,
  options: { schema: string; leading: readonly Migration[]; migrations: URL },
): Promise<Store> {
  const { config } = context;
  const store = await openStore({
    url: config.postgresUrl,
    schema: options.schema,
    migrations: [...options.leading, ...(await readMigrations(options.migrations))],
    connectionsMax: config.postgresConnectionsMax,
    connectTimeoutMs: config.postgresConnectTimeoutMs,
  });
  context.onStop("store", store.close);
  context.addReadiness("store", store.check);
  return store;
}
