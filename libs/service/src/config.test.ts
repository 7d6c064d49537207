import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import {
  bytes,
  choice,
  configReference,
  count,
  defineConfig,
  durationMs,
  flag,
  list,
  loadConfig,
  port,
  text,
  uri,
} from "./index.ts";

const schema = defineConfig("gateway", {
  httpPort: port(7400, "Port for clients."),
  drainTimeoutMs: durationMs(30_000, "Longest drain.", { min: 100, max: 60_000 }),
  cacheBytesMax: bytes(1024, "Cache size."),
  retriesMax: count(3, "Retries.", { max: 10 }),
  mode: choice(["fast", "safe"], "fast", "Mode."),
  verbose: flag(false, "More lines."),
  origins: list([], "Allowed origins."),
  natsUrl: uri(["nats", "tls"], undefined, "Event bus."),
  apiKey: text("", "Key.", { secret: true }),
});
const folder = mkdtempSync(join(tmpdir(), "config-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, content: string) => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};

test("environment beats file beats default, and strings become what the field says", () => {
  const path = file(
    "a.yaml",
    "all: { natsUrl: 'nats://a', unknownElsewhere: 1 }\ngateway: { retriesMax: 5, drainTimeoutMs: 200 }\n",
  );
  const config = loadConfig(schema, {
    PILOTLIGHT_CONFIG: path,
    DRAIN_TIMEOUT_MS: "500",
    CACHE_BYTES_MAX: "64MiB",
    VERBOSE: "true",
    ORIGINS: "a, b",
  });
  expect(config).toMatchObject({
    natsUrl: "nats://a",
    retriesMax: 5,
    drainTimeoutMs: 500,
    cacheBytesMax: 64 * 1024 * 1024,
    verbose: true,
    origins: ["a", "b"],
    httpPort: 7400,
    logLevel: "info",
  });
});
test("every problem is told at once, with field, value and origin", () => {
  const path = file("b.yaml", "gateway: { retryMax: 5 }\n");
  const load = () =>
    loadConfig(schema, {
      PILOTLIGHT_CONFIG: path,
      DRAIN_TIMEOUT_MS: "1e9",
      MODE: "odd",
      HTTP_PORT: "x",
      NATS_URL: "http://b",
    });
  for (const part of [
    "retryMax is not a setting",
    'drainTimeoutMs = "1e9" (from DRAIN_TIMEOUT_MS)',
    "mode",
    "httpPort",
    "must begin with nats://",
  ]) {
    expect(load).toThrow(part);
  }
});
test("a missing required setting says which variable sets it", () => {
  expect(() => loadConfig(schema, {})).toThrow("natsUrl is required: set NATS_URL. Event bus.");
});
test("a secret comes from a file and is never shown", () => {
  const strict = defineConfig("x", {
    apiKey: {
      ...text(undefined, "Key.", { secret: true }),
      schema: schema.fields.apiKey.schema.refine((v) => v === "ok") as never,
    },
  });
  expect(loadConfig(schema, { NATS_URL: "nats://a", API_KEY_FILE: file("key", "s3cret\n") }).apiKey).toBe(
    "s3cret",
  );
  expect(() => loadConfig(strict, { API_KEY: "hunter2" })).toThrow("(secret)");
  expect(() => loadConfig(strict, { API_KEY: "hunter2" })).not.toThrow("hunter2");
});
test("the reference names every setting with its variable and default", () => {
  expect(configReference(schema)).toContainEqual({
    name: "drainTimeoutMs",
    environment: "DRAIN_TIMEOUT_MS",
    default: "30000",
    description: "Longest drain.",
  });
  expect(configReference(schema).find((row) => row.name === "natsUrl")?.default).toBe("(required)");
});
