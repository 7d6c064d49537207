export { type LeadershipOptions, whileLeader } from "./leadership.ts";
export { type Migration, readMigrations } from "./migrate.ts";
export { openServiceStore, STORE_FIELDS } from "./part.ts";
export {
  openStore,
  type Queryable,
  type Sql,
  type Store,
  type StoreOptions,
  type Transaction,
} from "./store.ts";
export { readStored } from "./stored.ts";
