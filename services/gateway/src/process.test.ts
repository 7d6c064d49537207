// The gateway as a process: what a restart keeps, with and without the bus.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "@pilotlight/servers";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { answerTo, startFakeWorker } from "./testing/fake-worker.ts";
import { until, World } from "./testing/harness.ts";

let nats: TestServer;
let stateDir: string;

beforeAll(async () => {
  nats = await startTestNats();
  stateDir = await mkdtemp(join(tmpdir(), "pilotlight-gateway-"));
});
afterAll(async () => {
  await nats.stop();
  await rm(stateDir, { recursive: true, force: true });
});

async function start(natsUrl: string): Promise<{ process: ServiceProcess; url: string }> {
  const process = await startServiceProcess(new URL("./main.ts", import.meta.url), {
    NATS_URL: natsUrl,
    NATS_CONNECT_TIMEOUT_MS: "500",
    STATE_DIR: stateDir,
    HTTP_PORT: "0",
  });
  const { url } = await process.logged((line) => line.msg === "serving");
  return { process, url: String(url) };
}

async function ask(url: string): Promise<{ status: number; text: string }> {
  const answer = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": "find-me" },
    body: JSON.stringify({
      model: "test-model",
      messages: [{ role: "user", content: "abc" }],
      max_tokens: 2,
    }),
  });
  return { status: answer.status, text: await answer.text() };
}

test("a gateway that was killed routes again without the bus, and catches up when it is back", async () => {
  const world = await World.connect(nats.url, "shop");
  const [one, two] = [await startFakeWorker(), await startFakeWorker()];
  const first = await start(nats.url);
  await world.traffic({ 1: 1 });
  await world.replica("r1", one.endpoint);
  await until("it routes", async () => (await ask(first.url)).status === 200);
  const line = await first.process.logged((entry) => entry.component === "request" && entry.status === 200);
  expect(line).toMatchObject({ requestId: "find-me", replicaId: "r1", attempts: 1, service: "gateway" });
  const kept = join(stateDir, "routes.json");
  await until("the routes are kept", async () =>
    (await readFile(kept, "utf8").catch(() => "")).includes('"r1"'),
  );
  await first.process.kill("SIGKILL");

  // Nobody listens where NATS should be: the last known routes serve.
  const second = await start(`nats://127.0.0.1:${await freePort()}`);
  const answer = await ask(second.url);
  expect(answer.text).toContain(JSON.stringify(answerTo("abc", 2)));
  expect(await second.process.stop()).toBe(0);

  // The bus is back: what changed meanwhile is learnt, and replicas nobody knows any more go.
  const third = await start(nats.url);
  await world.replica("r2", two.endpoint);
  await until("the new replica serves", async () => {
    await ask(third.url);
    return two.seen.length > 0;
  });
  expect(await third.process.stop()).toBe(0);

  // A file that was cut in the middle is no reason not to start.
  await writeFile(kept, (await readFile(kept, "utf8")).slice(0, 50));
  const fourth = await start(nats.url);
  await until("it routes", async () => (await ask(fourth.url)).status === 200);
  expect(await fourth.process.stop()).toBe(0);
  await Promise.all([one.kill(), two.kill(), world.close()]);
});

test("a request survives a bus that goes away", async () => {
  const world = await World.connect(nats.url, "inn");
  const one = await startFakeWorker();
  const gateway = await start(nats.url);
  await world.traffic({ 1: 1 });
  await world.replica("i1", one.endpoint);
  await until("it routes", async () => (await ask(gateway.url)).status === 200);
  await world.close();
  const down = nats.interrupt(1_500);
  for (let i = 0; i < 20; i++) expect((await ask(gateway.url)).status).toBe(200);
  await down;
  expect((await ask(gateway.url)).status).toBe(200);
  expect(await gateway.process.stop()).toBe(0);
  await one.kill();
});
