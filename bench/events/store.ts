// A service's schema as both sides of the events benchmark have it.
import { BUS_MIGRATION } from "@pilotlight/bus";
import { openStore, type Store } from "@pilotlight/store";

export const openBenchStore = (url: string, schema: string): Promise<Store> =>
  openStore({ url, schema, migrations: [BUS_MIGRATION], connectionsMax: 4, connectTimeoutMs: 10_000 });
