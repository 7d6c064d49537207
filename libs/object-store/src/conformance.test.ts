import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "./open.ts";
import { conformanceSuite } from "./testing/conformance.ts";
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
