// The demo of `npm start`, held against what it promises.
import { afterAll, beforeAll, expect, test } from "vitest";
import { startTestPlatform, type TestPlatform } from "./platform.ts";
import { type Recording, recordEvents } from "./recorder.ts";

let running: TestPlatform;
let recording: Recording;
let requestId = "";

beforeAll(async () => {
  running = await startTestPlatform("directory");
  recording = await recordEvents(running.platform.endpoints.natsUrl);
}, 180_000);
afterAll(async () => {
  await recording?.stop();
  await running?.stop();
});

test("deploying an image and a model gives a ready replica, and the waterfall of its start", async () => {
  const [waterfall, early] = await Promise.all([running.demo.deploy(), askAsSoonAsKnown()]);
  expect(early, "a request that came before the first replica waited for it").toBe(200);
  for (const phase of [
    "placed",
    "image usable",
    "process up",
    "first weights",
    "last weights",
    "engine ready",
    "first token",
  ])
    expect(waterfall).toContain(phase);
  await running.demo.deployEmbeddings();
}, 240_000);

test("chat answers whole and streamed, and embeddings know what is alike", async () => {
  const seen = await running.demo.ask();
  expect(seen.answer).toContain("Paris");
  expect(seen.chunks).toBeGreaterThan(5);
  expect(seen.streamed).toContain("planet");
  expect(seen.similar).toBeGreaterThan(seen.different + 0.3);
  requestId = seen.requestId;
}, 60_000);

test("replicas follow the load up and down, and no request fails", async () => {
  const { most, report } = await running.demo.scale();
  expect(most).toBe(3);
  expect(report.requests).toBeGreaterThan(0);
  expect(report.failures).toEqual([]);
}, 300_000);

test("a second version takes over under load and the first comes back, and no request fails", async () => {
  const { forward, back, steps } = await running.demo.replace();
  expect(forward.failures).toEqual([]);
  expect(back.failures).toEqual([]);
  expect(steps.some((step) => step.startsWith("done"))).toBe(true);
}, 600_000);

test("the lines of one request are found, from gateway, worker and engine", async () => {
  const lines = await running.demo.logs(requestId);
  for (const source of ["gateway", "worker/request", "worker/engine"]) expect(lines).toContain(source);
}, 60_000);

test("status shows it all at a glance", async () => {
  const status = await running.demo.status();
  for (const part of ["chat", "embeddings", "smollm2-135m-instruct", "alive"]) expect(status).toContain(part);
});

test("every event that was said is in the AsyncAPI document and validates against it", () => {
  expect(recording.violations.slice(0, 10)).toEqual([]);
  for (const type of [
    "control.version.created",
    "image_converter.image.ready",
    "autoscaler.replica.wanted",
    "node_agent.replica.reported",
    "weight_streamer.weights.loaded",
    "rollout.rollout.moved",
    "gateway.load.sampled",
    "worker.load.sampled",
    "node_agent.lines.collected",
  ]) {
    expect(recording.heard.get(`pilotlight.${type}.v1`) ?? 0, type).toBeGreaterThan(0);
  }
});

test("no service ended by itself", () => expect(running.restarts).toEqual([]));

/** Asks from the first moment on at which the gateway knows the model, long before a replica is ready. */
async function askAsSoonAsKnown(): Promise<number> {
  for (;;) {
    const { status } = await fetch(`${running.platform.endpoints.gatewayUrl}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: "smollm2-135m-instruct",
        messages: [{ role: "user", content: "hello" }],
        max_tokens: 2,
      }),
    });
    if (status !== 404) return status;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
