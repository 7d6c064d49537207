import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { defineConfig, loadConfig } from "@pilotlight/service";
import { expect, test } from "vitest";
import { openImage } from "./index.ts";
import { REGISTRY_FIELDS, registryOptionsOf } from "./part.ts";
import { DEFAULT_REGISTRY_PATIENCE } from "./registry.ts";

const optionsIn = (environment: Record<string, string>) =>
  registryOptionsOf(loadConfig(defineConfig("reader", REGISTRY_FIELDS), environment));

test("without settings a service is as patient as the library, and anonymous", () => {
  const { patience, credentials } = optionsIn({});
  expect(patience).toEqual(DEFAULT_REGISTRY_PATIENCE);
  expect(credentials).toBeUndefined();
});

test("a registry that is down is asked as often as the setting says", async () => {
  let asked = 0;
  const registry = createServer((_request, response) => {
    asked++;
    response.writeHead(503).end();
  });
  await new Promise<void>((resolve) => registry.listen(0, "127.0.0.1", resolve));
  const { port } = registry.address() as AddressInfo;
  const options = optionsIn({ REGISTRY_ATTEMPTS_MAX: "4", REGISTRY_RETRY_DELAY_MS: "1" });
  await expect(openImage(`127.0.0.1:${port}/app:v1`, options)).rejects.toMatchObject({ code: "unavailable" });
  expect(asked).toBe(4);
  registry.closeAllConnections();
  await new Promise((resolve) => registry.close(resolve));
});
