// The gateway through its door: real HTTP, a real bus, fake workers on the other side.
import { hash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, watchSamples } from "@pilotlight/bus";
import {
  EVENTS,
  GoneReason,
  type LoadSampled,
  ReplicaPhase,
  type RequestFinished,
} from "@pilotlight/contracts";
import { startTestNats, type TestServer } from "@pilotlight/testing";
import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { answerTo, type FakeModel, type FakeWorker, startFakeWorker } from "./testing/fake-worker.ts";
import { deployment, type GatewayHandle, startTestGateway, until, World } from "./testing/harness.ts";

type Resumed = { resume_token_ids: number[]; resume_text_length: number };

let nats: TestServer;
let world: World;
let gateway: GatewayHandle;
let client: OpenAI;
let run = 0;
const workers: FakeWorker[] = [];

beforeAll(async () => {
  nats = await startTestNats();
});
afterAll(() => nats.stop());
beforeEach(async () => {
  world = await World.connect(nats.url, `app${++run}`);
});
afterEach(async () => {
  await gateway?.stop().catch(() => {});
  await Promise.all(workers.splice(0).map((worker) => worker.kill()));
  await world.traffic({}); // names are unique over applications
  await world.close();
});

async function open(settings: Parameters<typeof startTestGateway>[0] | object = {}): Promise<void> {
  gateway = await startTestGateway({ natsUrl: nats.url, loadSampleIdleMs: 200, ...settings });
  client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 });
}

async function worker(model: Partial<FakeModel> = {}): Promise<FakeWorker> {
  const one = await startFakeWorker(model);
  workers.push(one);
  return one;
}

/** Traffic on version 1, and ready replicas `r0`, `r1`, …; resolves when the gateway knows them. */
async function deploy(...replicas: FakeWorker[]): Promise<void> {
  await world.traffic({ 1: 1 });
  for (const [index, one] of replicas.entries()) await world.replica(`r${run}-${index}`, one.endpoint);
  await ready(replicas.length);
}

const ready = (replicas: number) =>
  until(`${replicas} ready replicas`, async () => {
    const { models } = (await (await fetch(gateway.url)).json()) as { models: { readyReplicas: number }[] };
    return models.reduce((sum, model) => sum + model.readyReplicas, 0) === replicas && models.length > 0;
  });

const ask = (content: string, more: object = {}) =>
  client.chat.completions.create({ model: "test-model", messages: [{ role: "user", content }], ...more });

async function askStream(content: string, more: object = {}) {
  const stream = await client.chat.completions.create({
    model: "test-model",
    messages: [{ role: "user", content }],
    stream: true,
    ...more,
  });
  const chunks: OpenAI.ChatCompletionChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return { chunks, text: chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("") };
}

const post = (body: unknown, headers: Record<string, string> = {}) =>
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

const CHAT = { model: "test-model", messages: [{ role: "user", content: "hello" }] };

describe("the OpenAI API", () => {
  test("answers the official client: whole, streamed, completions, embeddings, models", async () => {
    await open();
    await deploy(await worker());
    const whole = await ask("hello", { max_tokens: 3 });
    expect(whole.choices[0]?.message.content).toBe(answerTo("hello", 3));
    expect(whole.usage?.total_tokens).toBe(8);

    const { chunks, text } = await askStream("hello", {
      max_tokens: 5,
      stream_options: { include_usage: true },
    });
    expect(text).toBe(answerTo("hello", 5));
    expect(chunks.at(-1)?.usage?.completion_tokens).toBe(5);
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
    expect(JSON.stringify(chunks)).not.toContain("pilotlight");

    const completion = await client.completions.create({ model: "test-model", prompt: "abc", max_tokens: 2 });
    expect(completion.choices[0]?.text).toBe(answerTo("abc", 2));
    const embeddings = await client.embeddings.create({ model: "test-model", input: ["a", "b"] });
    expect(embeddings.data.map((one) => one.embedding)).toEqual([
      [0.25, -1, 2],
      [0.25, -1, 2],
    ]);
    expect((await client.models.list()).data.map((model) => model.id)).toEqual(["test-model"]);
    expect(await client.models.retrieve("test-model")).toMatchObject({ owned_by: world.application });
  });

  test("takes `application` and `application/deployment` for a model name", async () => {
    await open();
    await deploy(await worker());
    for (const model of [world.application, `${world.application}/chat`])
      expect((await ask("x", { model, max_tokens: 1 })).choices).toHaveLength(1);
  });

  test("passes bodies through byte for byte, and never a client's internal field", async () => {
    await open();
    const one = await worker();
    await deploy(one);
    const odd =
      '{ "model":"test-model",  "messages":[{"role":"user","content":"\\u0041"}], "guided_json":{"z":1} }';
    expect((await post(odd)).status).toBe(200);
    expect(one.seen.at(-1)?.raw).toBe(odd);
    expect(
      (await post({ ...CHAT, pilotlight: { resume_token_ids: [1], resume_text_length: 1 } })).status,
    ).toBe(200);
    expect(one.seen.at(-1)?.body).toEqual(CHAT);
  });

  test("the request ID goes to the worker and comes back", async () => {
    await open();
    const one = await worker();
    await deploy(one);
    const answer = await post(CHAT, { "x-request-id": "mine-1" });
    expect(answer.headers.get("x-request-id")).toBe("mine-1");
    expect(one.seen.at(-1)?.headers["x-request-id"]).toBe("mine-1");
    expect(one.seen.at(-1)?.headers.traceparent).toMatch(/^00-/);
    expect((await post(CHAT)).headers.get("x-request-id")).toMatch(/^req-/);
    // Two requests on one connection whose bodies come late: each keeps its own ID.
    const socket = connect(Number(new URL(gateway.url).port), "127.0.0.1");
    const body = JSON.stringify(CHAT);
    for (const id of ["late-1", "late-2"]) {
      socket.write(
        `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: ${id}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`,
      );
      await sleep(20);
      socket.write(body);
      await until("the worker has it", () => one.seen.at(-1)?.headers["x-request-id"] === id);
    }
    socket.destroy();
  });

  test("says who it is, to people and programs", async () => {
    await open();
    await deploy(await worker());
    expect(await (await fetch(gateway.url)).json()).toMatchObject({
      models: [{ name: "test-model", readyReplicas: 1 }],
    });
    const page = await fetch(gateway.url, { headers: { accept: "text/html" } });
    expect(await page.text()).toContain("<h1>Pilotlight</h1>");
    expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200);
  });
});

describe("keys and exposure", () => {
  test("only known keys get in, and a changed file counts at once", async () => {
    const directory = await mkdtemp(join(tmpdir(), "pilotlight-keys-"));
    const apiKeysFile = join(directory, "keys");
    await writeFile(apiKeysFile, `# people\nana ${hash("sha256", "ana-key")}\n`);
    await open({ apiKeysFile });
    await deploy(await worker());
    const status = async (key: string | null) =>
      (await post(CHAT, key === null ? {} : { authorization: `Bearer ${key}` })).status;
    expect(await status("ana-key")).toBe(200);
    expect(await status("other")).toBe(401);
    const refused = await post(CHAT);
    expect(refused.status).toBe(401);
    expect(await refused.json()).toMatchObject({ error: { type: "authentication_error" } });
    expect((await fetch(`${gateway.url}/v1/models`)).status).toBe(401);
    await writeFile(apiKeysFile, `bob ${hash("sha256", "bob-key")}\n`);
    await until("bob gets in", async () => (await status("bob-key")) === 200);
    expect(await status("ana-key")).toBe(401);
    // Nonsense does not lock everybody out.
    await writeFile(apiKeysFile, "nonsense");
    await sleep(300);
    expect(await status("bob-key")).toBe(200);
    await rm(directory, { recursive: true });
  });

  test("a door that other machines reach is refused without keys", async () => {
    await expect(open({ httpHost: "0.0.0.0" })).rejects.toMatchObject({
      code: "invalidArgument",
      field: "httpHost",
    });
    await open({ httpHost: "0.0.0.0", allowOpenAccess: true });
    expect((await fetch(`${gateway.url.replace("0.0.0.0", "127.0.0.1")}/healthz`)).status).toBe(200);
  });
});

describe("stopping", () => {
  test("open streams end, then the door closes", async () => {
    await open();
    await deploy(await worker({ tokens: 40, tokenMs: 10 }));
    const answer = askStream("abc");
    await sleep(100);
    const stopped = gateway.stop();
    expect((await answer).text).toBe(answerTo("abc", 40));
    await stopped;
    await expect(fetch(gateway.url)).rejects.toThrow("fetch failed");
  });

  test("streams and waiting requests that cannot end in time are told so", async () => {
    await open({ stopTimeoutMs: 1_200 });
    const one = await worker({ tokens: 10_000, tokenMs: 5 });
    await world.traffic({ 1: 1 });
    await world.replica(`r${run}-0`, one.endpoint, { inFlightMax: 1 });
    await ready(1);
    const [streamed, waiting] = [askStream("abc"), post(CHAT)];
    streamed.catch(() => {});
    await until("the stream is open", () => one.open === 1);
    const stopped = gateway.stop();
    await expect(streamed).rejects.toThrow(/gateway stops/);
    expect((await waiting).status).toBe(503);
    await stopped;
    await until("the replica is free", () => one.open === 0);
  });
});

describe("mistakes of clients", () => {
  test.each([
    ["an unknown model", { ...CHAT, model: "nope" }, 404, "model", "/v1/models"],
    ["no model", { messages: [] }, 400, "model", "model is missing"],
    ["no JSON", "{", 400, null, "not JSON"],
    ["no object", "[1]", 400, null, "JSON object"],
    ["a wrong stream flag", { ...CHAT, stream: "yes" }, 400, "stream", "true or false"],
  ])("%s: an error in OpenAI's form that names the field", async (_, body, status, param, text) => {
    await open();
    await deploy(await worker());
    const answer = await post(body);
    expect(answer.status).toBe(status);
    expect(await answer.json()).toMatchObject({
      error: { param, message: expect.stringContaining(text) as string, type: "invalid_request_error" },
    });
  });

  test("bodies that are too large or no JSON by their type are refused with HTTP's own status", async () => {
    await open({ bodyBytesMax: 2_000 });
    await deploy(await worker());
    const large = await post({ ...CHAT, padding: "x".repeat(4_000) });
    expect(large.status).toBe(413);
    expect(((await large.json()) as { error: { message: string } }).error.message).toContain(
      "BODY_BYTES_MAX",
    );
    expect((await post(CHAT, { "content-type": "text/plain" })).status).toBe(415);
    const missing = await fetch(`${gateway.url}/v1/nothing`);
    expect(missing.status).toBe(404);
  });

  test("the official client gets its own error classes", async () => {
    await open();
    const one = await worker();
    await deploy(one);
    await expect(ask("x", { model: "nope" })).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    one.behave({
      kind: "status",
      status: 400,
      body: JSON.stringify({
        error: { message: "too long", type: "invalid_request_error", param: "messages", code: null },
      }),
    });
    const refused = await ask("x").catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(OpenAI.BadRequestError);
    expect((refused as { param: string }).param).toBe("messages");
  });

  test("a bad request neither waits for a cold model nor wakes it", async () => {
    await open();
    await world.traffic({ 1: 1 });
    await ready(0);
    const answer = await post({ ...CHAT, temperature: 9 });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ error: { param: "temperature" } });
  });
});

describe("replicas that fail", () => {
  test("a request goes to another replica as long as the client has nothing", async () => {
    await open();
    const [bad, good] = [await worker(), await worker()];
    await deploy(bad, good);
    for (const kind of ["dies", "stalls", "garbage"] as const) {
      bad.behave({ kind, afterTokens: 0 });
      for (let i = 0; i < 6; i++)
        expect((await ask("abc", { max_tokens: 2 })).choices[0]?.finish_reason).toBe("length");
    }
    for (const status of [500, 502, 503, 429]) {
      bad.behave({ kind: "status", status });
      const answers = await Promise.all(Array.from({ length: 8 }, () => ask("abc", { max_tokens: 2 })));
      expect(answers.every((one) => one.choices[0]?.message.content === answerTo("abc", 2))).toBe(true);
    }
    expect(bad.seen.length).toBeGreaterThan(0);
  });

  test("when every replica says the same error, the client gets it", async () => {
    await open();
    const [one, other] = [await worker(), await worker()];
    await deploy(one, other);
    const body = JSON.stringify({
      error: { message: "kernel panic", type: "server_error", param: null, code: null },
    });
    for (const each of [one, other]) each.behave({ kind: "status", status: 500, body });
    const answer = await post(CHAT);
    expect([answer.status, await answer.text()]).toEqual([500, body]);
    expect(one.seen.length + other.seen.length).toBe(2);
  });

  test("a draining replica gets no further request and costs nothing", async () => {
    await open();
    const [old, young] = [await worker(), await worker()];
    await deploy(old, young);
    old.behave({ kind: "draining" });
    for (let i = 0; i < 10; i++) await ask("abc", { max_tokens: 1 });
    expect(old.seen.length).toBeLessThanOrEqual(1);
    expect(young.seen.length).toBe(10);
  });

  test("a replica that does not exist any more is left alone, and asked again later", async () => {
    await open({ ejectMsMin: 50, ejectMsMax: 100 });
    const [dead, alive] = [await worker(), await worker()];
    await deploy(dead, alive);
    await dead.kill();
    for (let i = 0; i < 10; i++) expect((await ask("abc", { max_tokens: 1 })).choices).toHaveLength(1);
    await world.replica(`r${run}-0`, dead.endpoint, {
      phase: ReplicaPhase.GONE,
      goneReason: GoneReason.CRASHED,
    });
    await ready(1);
  });
});

describe("streams that outlive their replica", () => {
  test.each(["dies", "stalls", "garbage", "fails"] as const)(
    "a replica that %s in the middle: the client sees one unbroken answer",
    async (kind) => {
      await open({ streamIdleTimeoutMs: 150, ejectMsMin: 50, ejectMsMax: 50 });
      const [bad, good] = [await worker({ tokens: 20 }), await worker({ tokens: 20 })];
      await deploy(bad, good);
      bad.behave({ kind, afterTokens: 7 });
      const options = { stream_options: { include_usage: true } };
      const answers = await Promise.all(Array.from({ length: 8 }, () => askStream("héllo", options)));
      for (const { chunks, text } of answers) {
        expect(text).toBe(answerTo("héllo", 20));
        expect(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created}`)).size).toBe(1);
        expect(chunks.filter((chunk) => chunk.choices[0]?.delta.role !== undefined)).toHaveLength(1);
        expect(chunks.at(-1)?.usage).toMatchObject({ completion_tokens: 20 });
      }
      const resumed = good.seen
        .map((one) => one.body.pilotlight as Resumed)
        .filter((one) => one !== undefined);
      expect(resumed.length).toBeGreaterThan(0);
      for (const { resume_token_ids: tokens, resume_text_length: length } of resumed) {
        expect(tokens).toEqual(Array.from({ length: tokens.length }, (_, index) => 1000 + index));
        expect(length).toBe(answerTo("héllo", tokens.length).length);
      }
    },
  );

  test("the bytes of a continued stream are those of an undisturbed one", async () => {
    await open();
    const [bad, good] = [await worker({ tokens: 12 }), await worker({ tokens: 12 })];
    await deploy(bad);
    const body = { ...CHAT, stream: true, stream_options: { include_usage: true } };
    const plain = (text: string) => text.replace(/"id":"[^"]*","object":"([^"]*)","created":\d+/g, '"$1"');
    const undisturbed = plain(await (await post(body)).text());
    bad.behave({ kind: "dies", afterTokens: 5 });
    const broken = post(body);
    await world.replica(`r${run}-1`, good.endpoint);
    expect(plain(await (await broken).text())).toBe(undisturbed);
  });

  test("only a replica with the same model goes on; the stream waits for one", async () => {
    await open();
    const [old, other, replacement] = [await worker(), await worker(), await worker()];
    const weights = deployment({ model: { source: "bucket://models/other", name: "test-model" } });
    await world.traffic({ 1: 1 });
    await world.replica(`r${run}-0`, old.endpoint);
    await ready(1);
    old.behave({ kind: "dies", afterTokens: 3 });
    // Version 2 has other weights under the same name, and all of the traffic from now on.
    const answer = askStream("abc");
    await until("the stream broke", () => old.seen.length === 1 && old.open === 0);
    await world.trafficOf([
      { version: 1, weight: 0, one: deployment() },
      { version: 2, weight: 1, one: weights },
    ]);
    await world.replica(`r${run}-1`, other.endpoint, { version: 2 });
    await world.replica(`r${run}-2`, replacement.endpoint, { version: 1 });
    expect((await answer).text).toBe(answerTo("abc", 8));
    expect(other.seen).toHaveLength(0);
    expect(replacement.seen).toHaveLength(1);
  });

  test("a stream that cannot be continued ends with an error that says so", async () => {
    await open({ continuationTokensMax: 2, ejectMsMin: 20 });
    const [one, other] = [await worker(), await worker()];
    await deploy(one, other);
    for (const each of [one, other]) each.behave({ kind: "dies", afterTokens: 5 });
    await expect(askStream("abc")).rejects.toThrow(/cannot be continued/);
  });

  test("a stream whose machine is lost goes on as soon as that is known", async () => {
    await open();
    const [lost, good] = [await worker(), await worker()];
    await deploy(lost);
    lost.behave({ kind: "stalls", afterTokens: 4 });
    const answer = askStream("abc");
    await until("the stream is open", () => lost.open === 1);
    await world.replica(`r${run}-1`, good.endpoint);
    await world.replica(`r${run}-0`, lost.endpoint, {
      phase: ReplicaPhase.GONE,
      goneReason: GoneReason.NODE_LOST,
    });
    expect((await answer).text).toBe(answerTo("abc", 8));
  });
});

describe("waiting and limits", () => {
  test("requests wait for a model that starts from zero, and are all served", async () => {
    await open();
    await world.traffic({ 1: 1 });
    await ready(0);
    const samples: LoadSampled[] = [];
    const watch = watchSamples(world.bus as Bus, EVENTS.loadSampled, {}, (sample) => samples.push(sample));
    await world.bus.connection.flush();
    const answers = Array.from({ length: 5 }, () => ask("abc", { max_tokens: 2 }));
    await until("the queue is told", () =>
      samples.some((one) => one.application === world.application && one.queued === 5 && one.version === 1),
    );
    const one = await worker();
    await world.replica(`r${run}-0`, one.endpoint);
    expect((await Promise.all(answers)).every((answer) => answer.choices.length === 1)).toBe(true);
    await until("the end is told", () =>
      samples.some((sample) => sample.requestsTotal === 5n && sample.queued === 0 && sample.inFlight === 0),
    );
    await watch.close();
  });

  test("who waits too long is told why, and when to come back", async () => {
    await open();
    await world.traffic({ 1: 1 }, deployment({ admission: { queueLengthMax: 2, queueWaitMsMax: 300 } }));
    await world.replica(`r${run}-0`, "", { phase: ReplicaPhase.LAST_BYTE });
    await ready(0);
    const waiting = [post(CHAT), post(CHAT)];
    await sleep(50);
    const refused = await post(CHAT);
    expect(refused.status).toBe(429);
    expect(refused.headers.get("retry-after")).toMatch(/^\d+$/);
    expect(await refused.text()).toContain("which is the limit");
    for (const answer of await Promise.all(waiting)) {
      expect(answer.status).toBe(503);
      expect(await answer.text()).toMatch(/no replica of app\d+\/chat is ready \(1 starting\)/);
    }
  });

  test("a replica gets no more requests at once than it takes", async () => {
    await open();
    const one = await worker({ tokens: 5 });
    await world.traffic({ 1: 1 });
    await world.replica(`r${run}-0`, one.endpoint, { inFlightMax: 2 });
    await ready(1);
    let most = 0;
    const watching = setInterval(() => {
      most = Math.max(most, one.open);
    }, 1);
    await Promise.all(Array.from({ length: 10 }, () => ask("abc")));
    clearInterval(watching);
    expect(most).toBe(2);
  });

  test("a client that goes away frees its replica, and its place in the queue", async () => {
    await open();
    const one = await worker({ tokens: 1_000, tokenMs: 5 });
    await world.traffic({ 1: 1 });
    await world.replica(`r${run}-0`, one.endpoint, { inFlightMax: 1 });
    await ready(1);
    const stopper = new AbortController();
    const stream = await client.chat.completions.create(
      { ...CHAT, stream: true } as OpenAI.ChatCompletionCreateParamsStreaming,
      { signal: stopper.signal },
    );
    const queued = new AbortController();
    const waiting = client.chat.completions.create(CHAT as OpenAI.ChatCompletionCreateParamsNonStreaming, {
      signal: queued.signal,
    });
    waiting.catch(() => {});
    await sleep(50);
    queued.abort();
    stopper.abort();
    await until("the replica is free", () => one.open === 0);
    expect(one.abandoned).toBe(1);
    expect(one.seen).toHaveLength(1);
    expect((await ask("abc", { max_tokens: 1 })).choices).toHaveLength(1);
    void stream;
  });

  test("a client that reads slowly slows its replica down, and is dropped when it reads nothing", async () => {
    await open({ clientStallTimeoutMs: 500 });
    const one = await worker({ tokens: 1_000_000, tokenMs: 0 });
    await deploy(one);
    const { port } = new URL(gateway.url);
    const socket = connect(Number(port), "127.0.0.1");
    const body = JSON.stringify({ ...CHAT, stream: true });
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    socket.on("error", () => {});
    socket.pause();
    await until("the client is dropped", () => one.seen.length === 1 && one.open === 0, 20_000);
    expect(one.abandoned).toBe(1);
    socket.destroy();
  });
});

describe("versions", () => {
  test("traffic is split by weight, and facts tell of every request", async () => {
    await open();
    const [one, two] = [await worker({ name: "v1" }), await worker({ name: "v2" })];
    await world.traffic({ 1: 0.75, 2: 0.25 });
    await world.replica(`r${run}-1`, one.endpoint, { version: 1 });
    await world.replica(`r${run}-2`, two.endpoint, { version: 2 });
    await ready(2);
    const facts: RequestFinished[] = [];
    const watch = watchSamples(
      world.bus,
      EVENTS.requestFinished,
      { application: world.application },
      (fact) => facts.push(fact),
    );
    await world.bus.connection.flush();
    const answers = await Promise.all(Array.from({ length: 40 }, () => ask("abc", { max_tokens: 2 })));
    expect(answers.filter((answer) => answer.model === "v2")).toHaveLength(10);
    await until("all facts came", () => facts.length === 40);
    await watch.close();
    expect(facts.filter((fact) => fact.version === 2)).toHaveLength(10);
    expect(facts[0]).toMatchObject({ status: 200, attempts: 1, promptTokens: 3, completionTokens: 2 });
  });

  test("a version without a ready replica costs no request", async () => {
    await open();
    const one = await worker();
    await world.traffic({ 1: 0.5, 2: 0.5 });
    await world.replica(`r${run}-1`, one.endpoint, { version: 1 });
    await ready(1);
    for (let i = 0; i < 6; i++) expect((await ask("abc", { max_tokens: 1 })).choices).toHaveLength(1);
  });

  test("an application that is deleted is not served any more, and whoever waits is told", async () => {
    await open();
    await world.traffic({ 1: 1 });
    await ready(0);
    const waiting = post(CHAT);
    await sleep(50);
    await world.traffic({});
    expect((await waiting).status).toBe(404);
    expect((await post(CHAT)).status).toBe(404);
  });
});
