// Replicas that are tensor-parallel groups, as a user has them: a model added whole and one cut with `--ranks`, deployed beside
// a replica of one rank, all asked the same.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHAT_MODEL, runCli, untilApplication } from "@pilotlight/local";
import { joinUri } from "@pilotlight/object-store";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startTestPlatform, type TestPlatform } from "./platform.ts";

const GENERATED = "generated://llama/tiny?layers=4&heads=4&keyValueHeads=2";
/** Its nine heads and three key/value heads are divided by three. */
const CHAT_RANKS = 3;
const DEPLOY_TIMEOUT_MS = 180_000;

let running: TestPlatform;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "pilotlight-ranks-"));
  running = await startTestPlatform("directory");
}, 180_000);
afterAll(async () => {
  await running?.stop();
  await rm(folder, { recursive: true });
});

const cli = (...args: string[]) => runCli(running.platform.endpoints.controlUrl, args);
const inBucket = (name: string) => joinUri(running.platform.endpoints.bucketUri, `models/${name}`);

const deployment = (name: string, model: string, tensorParallel: number) => ({
  name,
  image: "pilotlight://worker",
  model: { source: `bucket://models/${model}`, name, task: "chat" },
  // In f32 sums of another order do not change a token.
  engine: {
    kind: "embedded",
    dtype: "f32",
    contextTokensMax: 512,
    kvTokensMax: 1024,
    threads: 1,
    tensorParallel,
  },
  resources: { accelerators: 0, memoryMb: 512 },
  autoscaling: { replicasMax: 1 },
});

async function deploy(application: string, deployments: object[]) {
  const file = join(folder, `${application}.yaml`);
  await writeFile(file, JSON.stringify({ application, deployments }));
  return cli("deploy", file);
}

async function ask(model: string): Promise<string> {
  const response = await fetch(`${running.platform.endpoints.gatewayUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model,
      messages: [{ role: "user", content: "What is the capital of France?" }],
      temperature: 0,
      max_tokens: 16,
      ignore_eos: true,
    }),
  });
  const body = (await response.json()) as { choices?: { message: { content: string } }[] };
  const content = body.choices?.[0]?.message.content;
  if (content === undefined) throw new Error(`${model}: ${response.status} ${JSON.stringify(body)}`);
  return content;
}

test("weights in slices, of the whole and cut when they were added, give the answers of whole ones", async () => {
  const added = [
    await cli("model", "add", GENERATED, "--to", inBucket("whole")),
    await cli("model", "add", inBucket("whole"), "--ranks", "2", "--to", inBucket("cut")),
  ];
  expect(added.map(({ code, stderr }) => [code, stderr])).toEqual([
    [0, expect.any(String)],
    [0, expect.any(String)],
  ]);
  const deployments = [
    deployment("one", "whole", 1),
    deployment("two", "whole", 2),
    deployment("four", "whole", 4),
    deployment("cut", "cut", 2),
    deployment("chat-one", CHAT_MODEL, 1),
    deployment("chat-three", CHAT_MODEL, CHAT_RANKS),
  ];
  expect(await deploy("ranks", deployments)).toMatchObject({ code: 0 });
  await untilApplication(running.demo.control, "ranks", DEPLOY_TIMEOUT_MS, ({ replicas }) =>
    deployments.every(({ name }) =>
      replicas.some(({ deployment, phase }) => deployment === name && phase === "ready"),
    ),
  );
  const one = await ask("one");
  expect(one.length).toBeGreaterThan(0);
  for (const model of ["two", "four", "cut"]) expect(await ask(model), model).toBe(one);
  const answer = await ask("chat-one");
  expect(answer).toContain("Paris");
  expect(await ask("chat-three")).toBe(answer);
}, 400_000);

test("a model that is cut for another number of ranks is refused before anything starts", async () => {
  const { code, stderr } = await deploy("wrong", [deployment("main", "cut", 4)]);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/cut for 2 ranks, and the engine's tensorParallel is 4/);
  expect(stderr).toContain("tensorParallel: 2");
});

test("no service ended by itself", () => expect(running.restarts).toEqual([]));
