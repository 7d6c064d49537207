import { spawn } from "node:child_process";
import { once } from "node:events";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace";
import { PlatformError } from "@pilotlight/errors";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  configureLogging,
  counter,
  currentRequestId,
  currentTraceId,
  inSpan,
  logger,
  outgoingHeaders,
  registry,
  startMetrics,
  startTracing,
  withIncomingHeaders,
  withRequestId,
} from "./index.ts";

const lines: Record<string, unknown>[] = [];
const exporter = new InMemorySpanExporter();
let stop: () => Promise<void>;

beforeAll(async () => {
  configureLogging({
    service: "gateway",
    level: "info",
    fields: { replicaId: "r1" },
    destination: { write: (line: string) => void lines.push(JSON.parse(line)) },
  });
  stop = await startTracing({
    service: "gateway",
    otlpUrl: "",
    processors: [new SimpleSpanProcessor({ exporter })],
  });
});
afterAll(() => stop());

describe("logs", () => {
  test("a process whose log cannot be written goes on", async () => {
    const program = `
      import { configureLogging, logger } from ${JSON.stringify(join(import.meta.dirname, "index.ts"))};
      configureLogging({ service: "s", level: "info" });
      for (let i = 0; i < 3; i++) logger("main").info("a line");
      setTimeout(() => process.exit(7), 50);`;
    const full = await open("/dev/full", "w");
    const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
      stdio: ["ignore", full.fd, "inherit"],
    });
    const [code] = await once(child, "exit");
    await full.close();
    expect(code).toBe(7);
  });
  test("a line says where it comes from and which request it belongs to", () => {
    withRequestId("req-1", () => logger("http").info("request finished", { status: 200 }));
    expect(lines.at(-1)).toMatchObject({
      level: "info",
      service: "gateway",
      component: "http",
      replicaId: "r1",
      requestId: "req-1",
      status: 200,
      msg: "request finished",
    });
  });
  test("an error keeps code, remedy and causes; a quiet level writes nothing", () => {
    const error = new PlatformError("corrupt", "chunk 4 differs", {
      remedy: "Run verify.",
      cause: new Error("crc"),
    });
    logger("mount").warn("chunk refused", { error });
    expect(lines.at(-1)).toMatchObject({
      error: { code: "corrupt", remedy: "Run verify.", cause: { message: "crc" } },
    });
    const before = lines.length;
    logger("mount").debug("noise");
    expect(lines.length).toBe(before);
  });
  test("credentials are not written", () => {
    logger("http").info("call", { authorization: "Bearer abc", headers: { authorization: "Bearer abc" } });
    expect(JSON.stringify(lines.at(-1))).not.toContain("abc");
  });
});

describe("context", () => {
  test("request ID and trace cross a process boundary as headers", async () => {
    const carried = await inSpan("outer", { kind: "client" }, async () =>
      withRequestId("req-2", () => ({ headers: outgoingHeaders(), traceId: currentTraceId() })),
    );
    await withIncomingHeaders(carried.headers, () =>
      inSpan("inner", { kind: "server" }, async () => {
        expect(currentRequestId()).toBe("req-2");
        expect(currentTraceId()).toBe(carried.traceId);
      }),
    );
    const [outer, inner] = exporter.getFinishedSpans().slice(-2);
    expect(inner?.parentSpanContext?.spanId).toBe(outer?.spanContext().spanId);
  });
  test("a hostile request ID is not taken over", () => {
    withIncomingHeaders({ "x-request-id": "a\nb" }, () => expect(currentRequestId()).toBeUndefined());
  });
});

test("metrics carry the service's name", async () => {
  startMetrics("gateway");
  counter({ name: "pilotlight_test_total", help: "A counter." }).inc();
  expect(await registry.metrics()).toContain('pilotlight_test_total{service="gateway"} 1');
});
