import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, type NatsServer, startNatsServer } from "@pilotlight/servers";
import { afterEach, expect, test } from "vitest";
import { connectBus } from "./index.ts";

let stateDir: string;
let nats: NatsServer;
const start = async (fileStoreBytesMax: number) => {
  stateDir = await mkdtemp(join(tmpdir(), "pilotlight-streams-"));
  nats = await startNatsServer({ stateDir, port: await freePort(), fileStoreBytesMax });
};
afterEach(async () => {
  await nats.stop();
  await rm(stateDir, { recursive: true });
});

const connect = (service: string, connectTimeoutMs = 10_000) =>
  connectBus({ url: nats.url, service, connectTimeoutMs, streamReplicas: 1 });

test("the streams need their storage once, however many services make sure of them", async () => {
  await start(5 * 1024 ** 3);
  const together = await Promise.all(["a", "b", "c"].map((service) => connect(service)));
  const later = await connect("d");
  for (const bus of [...together, later]) await bus.close();
});

test("a server without room for them is named, with what they need", async () => {
  await start(3 * 1024 ** 3);
  await expect(connect("a", 1_000)).rejects.toMatchObject({
    code: "resourceExhausted",
    message: expect.stringContaining("PL_LOGS; all streams need 4352 MiB"),
    remedy: expect.stringContaining("max_file_store"),
  });
});
