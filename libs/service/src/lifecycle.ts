// The life of a service process: start its parts, answer for its health, stop within a deadline.
//   L1. Not ready before every part is up, and not ready any more as soon as it was told to stop.
//   L2. Parts stop in the reverse order of their start; a part that hangs does not stop the others from stopping.
//   L3. What was not foreseen ends the process (exit 1): its supervisor starts it again from persisted state.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  configureLogging,
  type Logger,
  logger,
  registry,
  startMetrics,
  startTracing,
} from "@pilotlight/telemetry";
import { startAdmin } from "./admin.ts";
import { type ConfigOf, type ConfigSchema, type Fields, loadConfig } from "./config.ts";

/** Says whether a part works right now; the text says what is wrong. */
export type HealthCheck = () => Promise<string | undefined> | string | undefined;

export type ServiceContext<C> = {
  readonly config: C;
  readonly log: Logger;
  /** Aborted when the service was told to stop. */
  readonly stopping: AbortSignal;
  /** Registers how a part stops. Called in reverse order of registration. */
  onStop(part: string, stop: () => Promise<unknown> | unknown): void;
  /** Registers a check for `/readyz`. */
  addReadiness(part: string, check: HealthCheck): void;
  /** Ends the process for a reason that cannot be repaired from inside. */
  fail(error: unknown): void;
};

export type ServiceDefinition<F extends Fields> = {
  config: ConfigSchema<F>;
  /** Fields of every log line, from the config. */
  logFields?: (config: ConfigOf<F>) => Record<string, unknown>;
  start: (context: ServiceContext<ConfigOf<F>>) => Promise<void>;
};

type BaseConfig = {
  adminHost: string;
  adminPort: number;
  logLevel: "debug" | "info" | "warn" | "error";
  otlpUrl: string;
  stopTimeoutMs: number;
};

/** Runs a service until it is told to stop. The only thing a `main.ts` calls. */
export async function runService<F extends Fields>(definition: ServiceDefinition<F>): Promise<void> {
  const service = definition.config.service;
  let config: ConfigOf<F>;
  try {
    config = loadConfig(definition.config, process.env);
  } catch (error) {
    process.stderr.write(`${service}: ${toPlatformError(error)}\n`);
    process.exit(2);
  }
  const base = config as unknown as BaseConfig;
  configureLogging({ service, level: base.logLevel, fields: definition.logFields?.(config) ?? {} });
  const log = logger("lifecycle");
  startMetrics(service);
  const stopTracing = await startTracing({ service, otlpUrl: base.otlpUrl });

  const stopper = new AbortController();
  const parts: { part: string; stop: () => Promise<unknown> | unknown }[] = [
    { part: "tracing", stop: stopTracing },
  ];
  const checks = new Map<string, HealthCheck>([["start", () => "still starting"]]);
  let exiting = false;

  const exit = async (code: number): Promise<void> => {
    if (exiting) process.exit(code === 0 ? 130 : code); // asked twice: at once
    exiting = true;
    checks.set("stop", () => "stopping");
    stopper.abort();
    const deadline = setTimeout(() => {
      log.error("stop took too long", { stopTimeoutMs: base.stopTimeoutMs });
      process.exit(1);
    }, base.stopTimeoutMs);
    for (const { part, stop } of parts.reverse()) {
      try {
        await stop();
      } catch (error) {
        log.warn("part did not stop cleanly", { part, error: toPlatformError(error) });
      }
    }
    clearTimeout(deadline);
    log.info("stopped");
    process.exit(code);
  };
  const crash = (error: unknown) => {
    log.error("unexpected failure; the process ends", { error: toPlatformError(error) });
    void exit(1);
  };
  process.stderr.on("error", () => {}); // a full disk: what cannot be said is no reason to end
  process.on("SIGTERM", () => void exit(0));
  process.on("SIGINT", () => void exit(0));
  process.on("uncaughtException", crash);
  process.on("unhandledRejection", crash);

  try {
    const admin = await startAdmin({
      host: base.adminHost,
      port: base.adminPort,
      checks,
      metrics: () => registry.metrics(),
    });
    parts.push({ part: "admin", stop: admin.close });
    await definition.start({
      config,
      log: logger("main"),
      stopping: stopper.signal,
      onStop: (part, stop) => void parts.push({ part, stop }),
      addReadiness: (part, check) => void checks.set(part, check),
      fail: crash,
    });
    checks.delete("start");
    log.info("ready", { adminUrl: admin.url, pid: process.pid });
  } catch (thrown) {
    const error = toPlatformError(thrown);
    log.error("cannot start", { error });
    process.stderr.write(`${service}: cannot start: ${error}\n`);
    await exit(error instanceof PlatformError && error.code === "invalidArgument" ? 2 : 1);
  }
}
