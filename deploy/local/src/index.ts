// What tests and benchmarks use of the platform on one machine.
export { ROOT, serviceMain, serviceNames } from "./checkout.ts";
export { type CliResult, runCli } from "./cli.ts";
export {
  CHAT_MODEL,
  createDemo,
  type Demo,
  EMBEDDING_MODEL,
  joinUri,
  readyReplicas,
  untilApplication,
} from "./demo.ts";
export { type Load, type LoadReport, startLoad } from "./load.ts";
export { type Endpoints, type Platform, type PlatformOptions, startPlatform } from "./platform.ts";
export { ensureWorkerImage } from "./worker-image.ts";
