import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "./open.ts";
import { startAzureServer } from "./testing/azure-server.ts";
import { conformanceSuite } from "./testing/conformance.ts";
import { startGoogleServer } from "./testing/google-server.ts";
import { startS3Server } from "./testing/s3-server.ts";

conformanceSuite("a directory", async () => {
  const directory = await mkdtemp(join(tmpdir(), "pilotlight-store-"));
  return {
    open: () => openStore(`file://${directory}`),
    remove: () => rm(directory, { recursive: true, force: true }),
  };
});

conformanceSuite("versitygw", async () => {
  const server = await startS3Server();
  return {
    open: () => openStore(server.uri("some/prefix"), { credentials: async () => server.credentials }),
    remove: server.stop,
  };
});

conformanceSuite("Azurite", async () => {
  const server = await startAzureServer();
  return {
    open: () => openStore(server.uri("some/prefix"), { env: server.env }),
    remove: server.stop,
  };
});

conformanceSuite("fake-gcs-server", async () => {
  const server = await startGoogleServer();
  return { open: () => openStore(server.uri("some/prefix")), remove: server.stop };
}, ["conditional deletes", "conditional uploads in parts"]);
