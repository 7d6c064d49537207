// Registries as a part of a service: its settings, and what they come to. Apart from the library's index: who only reads images
// does not load what a service stands on.
import { count, durationMs, list, text } from "@pilotlight/service";
import { DEFAULT_REGISTRY_PATIENCE as PATIENCE, type RegistryOptions } from "./registry.ts";
import { dockerConfigCredentials } from "./registry-auth.ts";

/** Settings of every service that reads from registries. */
export const REGISTRY_FIELDS = {
  registryCredentialsFile: text(
    "",
    "Docker configuration file (config.json) with registry credentials; empty: anonymous.",
  ),
  registryStallTimeoutMs: durationMs(
    PATIENCE.stallTimeoutMs,
    "Longest silence of a registry before a request is repeated.",
    { min: 100 },
  ),
  registryAttemptsMax: count(
    PATIENCE.retry.attemptsMax,
    "Attempts of a request to a registry; a layer that was cut goes on, and they count anew.",
    { min: 1, max: 1_000 },
  ),
  registryRetryDelayMs: durationMs(
    PATIENCE.retry.initialDelayMs,
    "First delay before a registry is asked again; it doubles each time.",
    { min: 1 },
  ),
  registryRetryDelayMsMax: durationMs(PATIENCE.retry.delayMsMax, "Longest such delay.", { min: 1 }),
  registryRetryAfterMsMax: durationMs(
    PATIENCE.retryAfterMsMax,
    "Longest pause that a registry may ask for; one that asks for more is asked again as others are.",
  ),
  plainHttpRegistries: list(
    [],
    "Registries (host:port) that are spoken to without TLS; loopback ones always are.",
  ),
};

type RegistryConfig = {
  registryCredentialsFile: string;
  registryStallTimeoutMs: number;
  registryAttemptsMax: number;
  registryRetryDelayMs: number;
  registryRetryDelayMsMax: number;
  registryRetryAfterMsMax: number;
  plainHttpRegistries: readonly string[];
};

/** How a service speaks to registries. */
export const registryOptionsOf = (config: RegistryConfig): RegistryOptions => ({
  plainHttpRegistries: config.plainHttpRegistries,
  patience: {
    stallTimeoutMs: config.registryStallTimeoutMs,
    retry: {
      attemptsMax: config.registryAttemptsMax,
      initialDelayMs: config.registryRetryDelayMs,
      delayMsMax: config.registryRetryDelayMsMax,
    },
    retryAfterMsMax: config.registryRetryAfterMsMax,
  },
  ...(config.registryCredentialsFile !== "" && {
    credentials: dockerConfigCredentials(config.registryCredentialsFile),
  }),
});
