export { type AzuriteOptions, type AzuriteServer, startAzurite } from "./azurite.ts";
export { cacheDir } from "./cache.ts";
export { type FakeGcsServer, startFakeGcs } from "./fake-gcs.ts";
export {
  ensureNatsServer,
  NATS_VERSION_MIN,
  type NatsServer,
  natsVersionSuffices,
  startNatsServer,
} from "./nats.ts";
export {
  ensurePostgres,
  type PostgresOptions,
  type PostgresServer,
  startPostgresServer,
} from "./postgres.ts";
export {
  type CommandOptions,
  freePort,
  runCommand,
  type ServerProcess,
  type ServerProcessOptions,
  startServerProcess,
} from "./processes.ts";
export { ensurePythonVenv } from "./python.ts";
export { ensureVersitygw, startVersitygw, type VersitygwOptions, type VersitygwServer } from "./versitygw.ts";
export { installFromWheel, unpackWheel, type Wheel } from "./wheels.ts";
