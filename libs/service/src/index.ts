// What a service needs around its own idea.
export { advertisedUrl } from "./advertised.ts";
export { childEnvironment } from "./child-environment.ts";
export {
  BASE_FIELDS,
  bytes,
  type ConfigOf,
  type ConfigSchema,
  choice,
  configReference,
  count,
  defineConfig,
  durationMs,
  environmentName,
  type Fields,
  flag,
  list,
  loadConfig,
  port,
  ratio,
  type ServiceConfig,
  text,
  uri,
} from "./config.ts";
export {
  type CallContext,
  type CallOptions,
  type GrpcClient,
  type GrpcDoor,
  type GrpcHandlers,
  grpcClient,
  grpcService,
  serveGrpc,
} from "./grpc.ts";
export { checked, createHttpDoor, type HttpDoorOptions, listen } from "./http.ts";
export { type HealthCheck, runService, type ServiceContext, type ServiceDefinition } from "./lifecycle.ts";
