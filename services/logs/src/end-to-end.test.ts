// A line written to a file of a node is found by its request ID: node agent, bus, log service and bucket together.
import { spawn } from "node:child_process";
import { appendFileSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "@pilotlight/servers";
import { startTestNats, type TestServer } from "@pilotlight/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TestLogs } from "./testing/harness.ts";

let nats: TestServer;
let logs: TestLogs;
let stopAgent: (signal: NodeJS.Signals) => Promise<unknown> = async () => {};

const AGENT = join(import.meta.dirname, "../../node-agent/src/main.ts");

async function startAgent(): Promise<void> {
  const agent = spawn(process.execPath, [AGENT], {
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: cacheDir("node-compile"),
      NATS_URL: nats.url,
      NODE_ID: "node-1",
      STATE_DIR: join(logs.home, "agent"),
      SEGMENT_DIRS: join(logs.home, "segments"),
      BUCKET_URI: `file://${logs.bucket}`,
      GRPC_PORT: "0",
      LOG_GLOBS: join(logs.home, "files", "*.log"),
      LOG_BATCH_BYTES_MAX: "4096",
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => agent.once("exit", resolve));
  stopAgent = (signal) => {
    agent.kill(signal);
    return ended;
  };
  await new Promise<void>((resolve, reject) => {
    agent.stdout.on("data", (data: Buffer) => {
      if (data.includes('"msg":"ready"')) resolve();
    });
    agent.once("exit", (code) => reject(new Error(`the agent ended with ${code}`)));
  });
}

beforeAll(async () => {
  nats = await startTestNats();
  logs = await TestLogs.open(nats.url);
  mkdirSync(join(logs.home, "files"));
});
afterAll(async () => {
  await stopAgent("SIGKILL");
  await logs.close();
  await nats.stop();
});

test("each line is found once, while agent, log service and NATS are killed in the middle and files rotate", async () => {
  const file = join(logs.home, "files", "gateway.log");
  let written = 0;
  const write = (count: number) => {
    const lines = Array.from({ length: count }, () => {
      const n = written++;
      const time = new Date().toISOString();
      return JSON.stringify({
        time,
        level: "info",
        service: "gateway",
        component: "http",
        msg: `n${n}`,
        requestId: `q${n % 100}`,
      });
    });
    appendFileSync(file, `${lines.join("\n")}\n`);
  };
  writeFileSync(file, "");
  await Promise.all([startAgent(), logs.start({ SEGMENT_AGE_MS: "500" })]);
  write(500);
  appendFileSync(file, 'not { json\n{"cut": \n\u0000\u0001\n');
  const faults = [
    () => stopAgent("SIGKILL").then(startAgent),
    () => logs.kill().then(() => logs.start({ SEGMENT_AGE_MS: "500" })),
    () => nats.interrupt(300),
  ];
  for (const fault of faults) {
    write(300);
    const over = fault();
    write(300);
    renameSync(file, `${file}.${written}`);
    write(300);
    await over;
  }
  const found = async () =>
    (await logs.messages({ service: "gateway", text: "n", limit: 100_000 })).filter((text) =>
      /^n\d+$/.test(text),
    );
  await expect.poll(async () => (await found()).length, { timeout: 50_000, interval: 200 }).toBe(written);
  expect(new Set(await found()).size).toBe(written);
  const ofRequest = await logs.search({ requestId: "q7" });
  expect(ofRequest.map(({ message }) => message)).toEqual(
    Array.from({ length: written / 100 }, (_, i) => `n${7 + i * 100}`),
  );
  expect(await logs.messages({ service: "gateway", text: "json" })).toEqual(["not { json"]);
}, 120_000);
