// A replica with the embedded engine, as a process, on a tiny generated model.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ReplicaPhase } from "@pilotlight/contracts";
import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type FakeNodeAgent,
  type FakeStreamer,
  startFakeNodeAgent,
  startFakeStreamer,
  writeTinyModel,
} from "./testing/fakes.ts";
import { startReplica, type TestReplica, TOKEN } from "./testing/replica.ts";
import { until } from "./testing/until.ts";

let directory: string;
let agent: FakeNodeAgent;
let streamer: FakeStreamer;
const started: TestReplica[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "pilotlight-models-"));
  await Promise.all([
    writeTinyModel(join(directory, "llama"), "llama"),
    writeTinyModel(join(directory, "bert"), "bert"),
    writeTinyModel(join(directory, "heads"), "qwen3", { heads: 4, keyValueHeads: 2 }),
    writeTinyModel(join(directory, "slow"), "llama", { layers: 48, context: 16_384 }),
  ]);
  [agent, streamer] = await Promise.all([startFakeNodeAgent(TOKEN), startFakeStreamer(directory)]);
});
afterEach(async () => {
  for (const replica of started.splice(0)) await replica.process.kill("SIGKILL");
  agent.reports.length = 0;
});
afterAll(async () => {
  await Promise.all([agent.down(), streamer.down()]);
  await rm(directory, { recursive: true });
});

async function replica(
  source: string,
  more: { contextTokensMax?: number; tensorParallel?: number; environment?: Record<string, string> } = {},
) {
  const embedded = {
    dtype: "bf16",
    threads: 1,
    sequencesMax: 4,
    contextTokensMax: more.contextTokensMax ?? 512,
    tensorParallel: more.tensorParallel ?? 1,
  };
  const one = await startReplica({
    deployment: {
      name: "chat",
      model: { source, name: "tiny" },
      engine: { kind: { case: "embedded", value: embedded } },
    },
    nodeAgentAddress: agent.address,
    weightStreamerAddress: streamer.address,
    environment: more.environment ?? {},
  });
  started.push(one);
  return one;
}

const CHAT = {
  model: "tiny",
  messages: [{ role: "user" as const, content: "hello" }],
  temperature: 0,
  max_tokens: 12,
};
const post = (url: string, body: object, headers: Record<string, string> = {}) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });

type Event = {
  id: string;
  choices: { delta: { content?: string }; finish_reason: string | null }[];
  usage?: { completion_tokens: number };
  pilotlight?: { token_ids: number[]; prompt_tokens?: number };
};

/** A stream as the gateway reads it. */
async function streamEvents(url: string, body: object, answer = "0123456789abcdef"): Promise<Event[]> {
  const response = await post(url, { ...body, stream: true }, { "x-pilotlight-answer": answer });
  const text = await response.text();
  expect(text).toMatch(/data: \[DONE\]\n\n$/);
  return text
    .split("\n\n")
    .filter((event) => event.startsWith("data: {"))
    .map((event) => JSON.parse(event.slice(6)) as Event);
}

const textOf = (events: Event[]) => events.map((event) => event.choices[0]?.delta.content ?? "").join("");

describe("the OpenAI API on the embedded engine", () => {
  test("whole and streamed answers are the same, with usage, reason and fingerprint", async () => {
    const { client } = await sharedReplica();
    const whole = await client.chat.completions.create(CHAT);
    expect(whole).toMatchObject({ model: "tiny", object: "chat.completion" });
    expect(whole.id).toMatch(/^chatcmpl-/);
    expect(whole.system_fingerprint).toMatch(/^pl_[0-9a-f]{12}$/);
    expect(whole.choices[0]?.finish_reason).toMatch(/^(stop|length)$/);
    const stream = await client.chat.completions.create({
      ...CHAT,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("")).toBe(
      whole.choices[0]?.message.content,
    );
    expect(chunks.at(-1)?.usage).toEqual(whole.usage);
    expect(chunks[0]?.choices[0]?.delta.role).toBe("assistant");
    // Only the gateway is told the tokens.
    expect(JSON.stringify(chunks)).not.toContain("pilotlight");

    const completion = await client.completions.create({
      model: "tiny",
      prompt: "abc",
      max_tokens: 4,
      temperature: 0,
    });
    expect(completion.usage).toMatchObject({
      completion_tokens: expect.any(Number) as number,
      prompt_tokens: 3,
    });
    expect((await client.models.list()).data.map((model) => model.id)).toEqual(["tiny"]);
  });

  test("log probabilities, stop strings, seeds and limits do what the API says", async () => {
    const { client } = await sharedReplica();
    const detailed = await client.chat.completions.create({ ...CHAT, logprobs: true, top_logprobs: 2 });
    const tokens = detailed.choices[0]?.logprobs?.content ?? [];
    expect(tokens).toHaveLength(detailed.usage?.completion_tokens ?? -1);
    expect(tokens[0]?.top_logprobs).toHaveLength(2);
    expect(tokens[0]?.top_logprobs[0]?.logprob).toBeCloseTo(tokens[0]?.logprob ?? 0, 5);

    const sampled = { ...CHAT, temperature: 1, seed: 5 };
    const [one, two] = [
      await client.chat.completions.create(sampled),
      await client.chat.completions.create(sampled),
    ];
    expect(one.choices[0]?.message.content).toBe(two.choices[0]?.message.content);

    const full = detailed.choices[0]?.message.content ?? "";
    const stop = full.slice(3, 5);
    const stopped = await client.chat.completions.create({ ...CHAT, stop: [stop, ""] });
    expect(stopped.choices[0]?.message.content).toBe(full.slice(0, full.indexOf(stop)));
    expect(stopped.choices[0]?.finish_reason).toBe("stop");
    const short = await client.chat.completions.create({ ...CHAT, max_tokens: 50, max_completion_tokens: 2 });
    expect(short.usage?.completion_tokens).toBeLessThanOrEqual(2);
  });

  test.each([
    [{ n: 2 }, "n"],
    [{ temperature: 9 }, "temperature"],
    [{ response_format: { type: "json_object" } }, "response_format"],
    [{ messages: [{ role: "user", content: "x".repeat(600) }] }, "messages"],
    [
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
      "messages[0].content[0].type",
    ],
    [{ logit_bias: { 99999: 1 } }, "logit_bias"],
  ])("refuses what it cannot do, by name: %j", async (more, param) => {
    const { url } = await sharedReplica();
    const answer = await post(url, { ...CHAT, ...more });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ error: { param, type: "invalid_request_error" } });
  });

  test("text parts are one text, and unknown fields are ignored", async () => {
    const { url } = await sharedReplica();
    const parts = [
      {
        role: "user",
        content: [
          { type: "text", text: "hel" },
          { type: "text", text: "lo" },
        ],
      },
    ];
    const [joined, plain] = await Promise.all([
      post(url, { ...CHAT, messages: parts, guided_regex: "x", stream: false }),
      post(url, CHAT),
    ]);
    const contentOf = async (answer: Response) =>
      ((await answer.json()) as OpenAI.ChatCompletion).choices[0]?.message.content;
    expect(await contentOf(joined)).toBe(await contentOf(plain));
  });

  test("the context is bounded by the deployment's own limit", async () => {
    const { url } = await replica("llama", { contextTokensMax: 64 });
    const answer = await post(url, { ...CHAT, messages: [{ role: "user", content: "x".repeat(80) }] });
    expect(answer.status).toBe(400);
    expect(await answer.text()).toMatch(/the model takes 64/);
  });

  test("embeddings: numbers and base64 are the same, dimensions are the model's", async () => {
    const { client, url } = await replica("bert");
    const [floats, encoded] = await Promise.all([
      client.embeddings.create({ model: "tiny", input: ["one", "two"], encoding_format: "float" }),
      client.embeddings.create({ model: "tiny", input: ["one", "two"] }),
    ]);
    expect(floats.data).toHaveLength(2);
    expect(encoded.data.map((one) => one.embedding)).toEqual(floats.data.map((one) => one.embedding));
    expect(floats.usage.prompt_tokens).toBeGreaterThan(2);
    await expect(
      client.embeddings.create({ model: "tiny", input: "x", dimensions: 3 }),
    ).rejects.toBeInstanceOf(OpenAI.BadRequestError);
    const chat = await post(url, CHAT);
    expect(chat.status).toBe(400);
    expect(await chat.text()).toContain("/v1/embeddings");
  });
});

describe("weights in slices of a tensor-parallel group", () => {
  const answerOf = async ({ client }: TestReplica) =>
    (await client.chat.completions.create(CHAT)).choices[0]?.message.content;

  test.each([2, 4])("%d ranks answer as one does, and each holds its lease", async (tensorParallel) => {
    const alone = await answerOf(await replica("heads"));
    const leases = streamer.leases;
    const group = await replica("heads", { tensorParallel });
    expect(await answerOf(group)).toBe(alone);
    expect(streamer.leases).toBe(leases + tensorParallel);
    const { opened } = streamer;
    await streamer.down();
    await streamer.up();
    await until("every rank attached again", () => streamer.opened >= opened + tensorParallel);
    expect(await answerOf(group)).toBe(alone);
  });

  test("a rank's stream that breaks in the middle of the load costs nothing but time", async () => {
    streamer.breakAfter(7);
    const group = await replica("heads", { tensorParallel: 2 });
    expect(await answerOf(group)).toBe(await answerOf(await replica("heads")));
  });

  test("one rank's failure is the replica's, and no rank keeps its lease", async () => {
    const leases = streamer.leases;
    streamer.refuseRank(1);
    await expect(replica("heads", { tensorParallel: 2 })).rejects.toThrow(/rank 1 of 2: a checksum differs/);
    streamer.refuseRank(null);
    const failure = agent.reports.findLast((report) => report.failure !== undefined)?.failure;
    expect(failure).toMatchObject({ code: "corrupt", message: "rank 1 of 2: a checksum differs" });
    await until("the leases are given back", () => streamer.leases === leases);
  });

  test("a group that the model cannot be divided between is refused by the numbers", async () => {
    await expect(replica("heads", { tensorParallel: 8 })).rejects.toThrow(
      /tensorParallel is 8, which does not divide the model's 4 attention heads/,
    );
    await expect(replica("bert", { tensorParallel: 2 })).rejects.toThrow(/is not divided between ranks/);
  });
});

describe("answers that move", () => {
  test.each([{ temperature: 0 }, { temperature: 1 }, { temperature: 0, stop: ["zz"] }])(
    "an answer continued from any token is the undisturbed one: %j",
    async (sampling) => {
      const { url } = await sharedReplica();
      const body = { ...CHAT, ...sampling, max_tokens: 24, ignore_eos: true };
      const whole = await streamEvents(url, body);
      const text = textOf(whole);
      expect(text.length).toBeGreaterThan(0);
      const usage = whole.at(-1)?.pilotlight?.prompt_tokens;
      for (let cut = 1; cut < whole.length - 1; cut += 3) {
        const sent = whole.slice(0, cut);
        const extension = {
          resume_token_ids: sent.flatMap((event) => event.pilotlight?.token_ids ?? []),
          resume_text_length: textOf(sent).length,
        };
        const rest = await streamEvents(url, { ...body, pilotlight: extension });
        expect(textOf(sent) + textOf(rest)).toBe(text);
        expect(rest[0]?.id).toBe(whole[0]?.id);
        expect(rest.at(-1)?.pilotlight?.prompt_tokens).toBe(usage);
      }
    },
  );
});

describe("a replica's life", () => {
  test("its phases are told in order, and its lines carry the request's ID from worker and engine", async () => {
    const { process, url } = await replica("llama");
    const lastReport = () => agent.reports.findLast((report) => report.endpoint === url);
    await until("ready is reported", () => lastReport()?.phase === ReplicaPhase.READY);
    const last = lastReport();
    expect(last?.marks.map((mark) => mark.phase)).toEqual([
      ReplicaPhase.PROCESS_UP,
      ReplicaPhase.FIRST_BYTE,
      ReplicaPhase.LAST_BYTE,
      ReplicaPhase.ENGINE_READY,
      ReplicaPhase.READY,
    ]);
    expect(last).toMatchObject({ endpoint: url, inFlightMax: 4, replicaId: "app-chat-v3-abc" });
    await post(url, CHAT, { "x-request-id": "find-me" });
    const lines = ["request", "engine"].map((component) =>
      process.logged((line) => line.component === component && line.requestId === "find-me"),
    );
    for (const line of await Promise.all(lines))
      expect(line).toMatchObject({
        application: "app",
        version: 3,
        deployment: "chat",
        replicaId: "app-chat-v3-abc",
        service: "worker",
        traceId: expect.any(String) as string,
      });
  });

  test("on every address, it tells one that others can reach, or the one that it was given", async () => {
    const everywhere = await replica("llama", { environment: { HTTP_HOST: "0.0.0.0" } });
    expect(everywhere.url).not.toContain("0.0.0.0");
    expect((await post(everywhere.url, CHAT)).status).toBe(200);
    const named = await replica("llama", { environment: { ADVERTISED_HOST: "localhost" } });
    expect(named.url).toMatch(/^http:\/\/localhost:\d+$/);
    expect(agent.reports.map(({ endpoint }) => endpoint)).toContain(named.url);
  });
  test("told to drain, it ends its streams, refuses new requests with a sign, and exits well", async () => {
    const { process, url } = await replica("llama");
    const long = post(url, { ...CHAT, max_tokens: 400, ignore_eos: true, stream: true });
    await until("the request is in flight", async () => (await inFlight(url)) === 1);
    agent.drain(url, Date.now() + 20_000);
    await until("it drains", async () => (await fetch(`${url}/healthz`).catch(() => null))?.status === 503);
    const refused = await post(url, CHAT).catch(() => null);
    if (refused !== null)
      expect([refused.status, refused.headers.get("x-pilotlight-draining")]).toEqual([503, "1"]);
    expect(await (await long).text()).toMatch(/data: \[DONE\]\n\n$/);
    expect(await process.exited).toBe(0);
    expect(agent.reports.some((report) => report.phase === ReplicaPhase.DRAINING)).toBe(true);
  });

  test("streams that outlast the drain are told so, and the process ends", async () => {
    const { process, url } = await replica("slow", { contextTokensMax: 16_384 });
    const requests = Array.from({ length: 2 }, () =>
      post(url, { ...CHAT, max_tokens: 8_000, ignore_eos: true, stream: true }).then((answer) =>
        answer.text(),
      ),
    );
    await until("requests are in flight", async () => (await inFlight(url)) === 2);
    agent.drain(url, Date.now());
    const answers = await Promise.all(requests.map((request) => request.catch(() => "cut")));
    for (const answer of answers) expect(answer).toMatch(/the replica's time to drain is over/);
    expect(await process.exited).toBe(0);
  });

  test("agent and streamer may die and come back: it serves, and attaches again", async () => {
    const { url } = await sharedReplica();
    const [attached, opened] = [agent.attached, streamer.opened];
    await Promise.all([agent.down(), streamer.down()]);
    expect((await post(url, CHAT)).status).toBe(200);
    await Promise.all([agent.up(), streamer.up()]);
    await until("it attached again", () => agent.attached > attached && streamer.opened > opened);
    await until("it is known as ready", () => agent.reports.at(-1)?.phase === ReplicaPhase.READY);
    expect(streamer.leases).toBe(1);
    expect((await post(url, CHAT)).status).toBe(200);
  });

  test("a streamer that dies in the middle of the load costs nothing but time", async () => {
    streamer.breakAfter(5);
    const { url } = await replica("llama");
    expect((await post(url, CHAT)).status).toBe(200);
  });

  test("what can never start is told to the agent, with the reason, and ends the process", async () => {
    await expect(replica("nothing-there")).rejects.toThrow(/there is no repository nothing-there/);
    const failure = agent.reports.findLast((report) => report.failure !== undefined)?.failure;
    expect(failure).toMatchObject({
      code: "notFound",
      message: expect.stringContaining("nothing-there") as string,
    });
  });

  test("clients that go away free their places", async () => {
    const { process, url } = await replica("slow", { contextTokensMax: 16_384 });
    const stopper = new AbortController();
    // More than run at a time, and answers of many seconds: none is over before it was looked at, on whatever machine.
    const answers = Array.from({ length: 6 }, () =>
      fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ ...CHAT, max_tokens: 15_000, ignore_eos: true }),
        signal: stopper.signal,
      }),
    );
    const ended = Promise.allSettled(answers);
    await until("they are in flight", async () => (await inFlight(url)) === answers.length);
    stopper.abort();
    await ended;
    await until("they are over", async () => (await inFlight(url)) === 0);
    await process.logged((line) => line.msg === "request" && line.status === 499);
  });
});

const inFlight = async (url: string): Promise<number> =>
  ((await (await fetch(`${url}/healthz`)).json()) as { inFlight: number }).inFlight;

let shared: TestReplica | null = null;

/** One replica for tests that change nothing about it. */
async function sharedReplica(): Promise<TestReplica> {
  shared ??= await replica("llama");
  const index = started.indexOf(shared);
  if (index >= 0) started.splice(index, 1);
  return shared;
}
afterAll(() => shared?.process.kill("SIGKILL"));
