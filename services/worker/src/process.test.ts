// A replica whose engine is any HTTP server as a child process.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ReplicaPhase } from "@pilotlight/contracts";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type FakeNodeAgent, startFakeNodeAgent } from "./testing/fakes.ts";
import { startReplica, type TestReplica, TOKEN } from "./testing/replica.ts";
import { until } from "./testing/until.ts";

/** An engine that knows nothing of the platform: echoes what it was asked, and dies on demand. */
const PROGRAM = `
import { createServer } from "node:http";
const [port, name] = process.argv.slice(2);
console.log("engine says hello", name, process.env.FLAVOUR, process.env.REPLICA_TOKEN ?? "no token", "weights for", process.env.PILOTLIGHT_REPLICA_ID, process.env.PILOTLIGHT_WEIGHT_STREAMER);
createServer(async (request, response) => {
  if (request.url === "/health") return response.end("ok");
  let text = "";
  for await (const part of request) text += part;
  const body = JSON.parse(text);
  if (body.die) process.exit(7);
  if (!body.stream) return response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ path: request.url, body }));
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write('data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\\n\\n');
  setTimeout(() => response.end('data: [DONE]\\n\\n'), 50);
}).listen(Number(port), "127.0.0.1");
`;

let directory: string;
let agent: FakeNodeAgent;
const started: TestReplica[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "pilotlight-program-"));
  await writeFile(join(directory, "engine.mjs"), PROGRAM);
  agent = await startFakeNodeAgent(TOKEN);
});
afterEach(async () => {
  for (const replica of started.splice(0)) await replica.process.stop();
  agent.reports.length = 0;
});
afterAll(async () => {
  await agent.down();
  await rm(directory, { recursive: true });
});

async function replica(command: string[], readyTimeoutMs = 10_000): Promise<TestReplica> {
  const value = {
    command,
    healthPath: "/health",
    readyTimeoutMs,
    sequencesMax: 9,
    environment: { FLAVOUR: "sweet" },
  };
  const one = await startReplica({
    deployment: {
      name: "chat",
      model: { name: "real-name" },
      engine: { kind: { case: "process", value } },
    },
    nodeAgentAddress: agent.address,
    weightStreamerAddress: "127.0.0.1:1",
  });
  started.push(one);
  return one;
}

const program = () => [process.execPath, join(directory, "engine.mjs"), "{port}", "{modelName}"];
const post = (url: string, body: object) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

test("requests pass through with every field, under the model's own name", async () => {
  const one = await replica(program());
  const body = { model: "alias", messages: [], guided_json: { deep: [1] }, temperature: 99 };
  expect(await (await post(one.url, body)).json()).toEqual({
    path: "/v1/chat/completions",
    body: { ...body, model: "real-name" },
  });
  const streamed = await post(one.url, { ...body, stream: true });
  expect(streamed.headers.get("content-type")).toBe("text/event-stream");
  expect(await streamed.text()).toMatch(/"content":"a".*\n\ndata: \[DONE\]\n\n$/);
  await until("it is known as ready", () => agent.reports.at(-1)?.phase === ReplicaPhase.READY);
  expect(agent.reports.at(-1)?.inFlightMax).toBe(9);
  const hello = await one.process.logged((line) => line.component === "engine" && line.msg.includes("hello"));
  // Its loader may ask the node's streamer in the replica's name; the worker's secret is not its business.
  expect(hello.msg).toMatch(
    /^engine says hello real-name sweet no token weights for app-chat-v3-abc 127\.0\.0\.1:1$/,
  );
});

test("a program that ends takes the replica with it, and the agent is told why", async () => {
  const one = await replica(program());
  await post(one.url, { die: true }).catch(() => null);
  await until("the failure is reported", () => agent.reports.at(-1)?.failure !== undefined);
  expect(agent.reports.at(-1)?.failure?.message).toContain("exit code 7");
  expect(await one.process.exited).toBe(1);
});

test.each([
  ["does not exist", ["/no/such/program"], /ENOENT/],
  [
    "ends at once",
    [process.execPath, "-e", "console.error('bad flag'); process.exit(3)"],
    /exit code 3.*bad flag/,
  ],
  ["never gets well", [process.execPath, "-e", "setInterval(() => {}, 1000)"], /not ready after 700 ms/],
])("a program that %s: a start that failed, with the reason", async (_, command, reason) => {
  await expect(replica(command, 700)).rejects.toThrow(reason);
  expect(agent.reports.at(-1)?.failure?.message).toMatch(reason);
});
