export type {
  Backend,
  ImageRuntime,
  ImageToMount,
  Launch,
  MarkedLaunch,
  PlacedProcess,
  ProcessEnd,
} from "./backend.ts";
export { type Capacity, detectCapacity } from "./capacity.ts";
export { eitherRuntime } from "./either-runtime.ts";
export { type ImagefsRuntimeOptions, imagefsRuntime } from "./imagefs-runtime.ts";
export { type LocalBackendOptions, localBackend } from "./local.ts";
export type { ProcessIdentity } from "./process.ts";
