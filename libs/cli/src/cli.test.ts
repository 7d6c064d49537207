// The command line against a stand-in of control's door: what is asked, what is printed, how it ends.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import type { ApplicationDetail, ReplicaView, RolloutView, Waterfall } from "@pilotlight/control-api";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readReference, referencePage } from "../scripts/generate-config.ts";
import { runCli } from "./cli.ts";
import type { Terminal } from "./terminal.ts";

type Answer = { status?: number; body: unknown } | ((url: URL) => { status?: number; body: unknown });
let server: Server;
let url: string;
const answers = new Map<string, Answer>();
const asked: { method: string; url: URL; body: string; token: string | undefined }[] = [];

beforeAll(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const target = new URL(request.url ?? "/", "http://127.0.0.1");
    asked.push({ method: request.method ?? "", url: target, body, token: request.headers.authorization });
    const found = answers.get(`${request.method} ${target.pathname}`);
    const answer = typeof found === "function" ? found(target) : found;
    const { status = 200, body: value } = answer ?? {
      status: 404,
      body: { error: { code: "notFound", message: `no ${target.pathname}`, remedy: "Look again." } },
    };
    response.writeHead(status, { "content-type": "application/json" });
    // A list of lines is a stream, anything else is one document.
    response.end(
      value instanceof Set
        ? [...value].map((line) => `${JSON.stringify(line)}\n`).join("")
        : JSON.stringify(value),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
const scratch = mkdtempSync(join(tmpdir(), "cli-"));
afterAll(() => {
  server.close();
  rmSync(scratch, { recursive: true });
});
beforeEach(() => {
  answers.clear();
  asked.length = 0;
});

async function run(
  args: string[],
  options: { env?: Record<string, string>; cwd?: string; live?: boolean } = {},
) {
  const out: string[] = [];
  const err: string[] = [];
  const terminal: Terminal = {
    env: { PILOTLIGHT_URL: url, ...options.env },
    cwd: options.cwd ?? tmpdir(),
    out: (line) => void out.push(`${line}\n`),
    write: (text) => void out.push(text),
    err: (line) => void err.push(`${line}\n`),
    draw: (text) => void err.push(text),
    isLive: options.live ?? false,
    columns: 100,
    interrupted: new AbortController().signal,
    style: (_format, text) => text,
  };
  const code = await runCli(args, terminal);
  return { code, out: out.join(""), err: err.join("") };
}

const file = (text: string) => {
  const path = join(mkdtempSync(join(scratch, "file-")), "app.yaml");
  writeFileSync(path, text);
  return path;
};
const replica = (phase: ReplicaView["phase"], extra: Partial<ReplicaView> = {}): ReplicaView => ({
  replicaId: "chat-main-v2-1a",
  application: "chat",
  version: 2,
  deployment: "main",
  nodeId: "node-1",
  phase,
  marks: [{ phase: "decided", at: 1_000 }],
  endpoint: null,
  compileCache: null,
  goneReason: null,
  failure: null,
  accelerators: 0.5,
  memoryMib: 512,
  updatedAt: 2_000,
  ...extra,
});
const rollout = (phase: RolloutView["phase"], extra: Partial<RolloutView> = {}): RolloutView => ({
  rolloutId: "r",
  application: "chat",
  fromVersion: 1,
  toVersion: 2,
  phase,
  traffic: 0.5,
  reason: "50 % of the traffic on version 2",
  startedAt: 1_000,
  endedAt: null,
  steps: [{ at: 1_000, phase, traffic: 0.5, reason: "50 % of the traffic on version 2" }],
  ...extra,
});
const application = (extra: Partial<ApplicationDetail> = {}): ApplicationDetail => ({
  name: "chat",
  createdAt: 0,
  wantedVersion: 2,
  servingVersion: 1,
  traffic: [
    { version: 1, weight: 0.5 },
    { version: 2, weight: 0.5 },
  ],
  rollout: rollout("stepping"),
  deployments: [
    {
      name: "main",
      version: 2,
      image: "pilotlight://worker",
      model: { name: "smollm", source: "bucket://models/m", task: "chat" },
      engine: "embedded",
      starting: 1,
      ready: 1,
      draining: 0,
      wanted: 2,
      reason: null,
    },
  ],
  versions: [
    { version: 2, digest: `sha256:${"0".repeat(64)}`, createdAt: 0, servedAt: null, state: "rollingOut" },
  ],
  replicas: [replica("processUp")],
  ...extra,
});
const waterfall: Waterfall = {
  replicaId: "chat-main-v2-1a",
  application: "chat",
  version: 2,
  deployment: "main",
  nodeId: "node-1",
  phase: "ready",
  failure: null,
  compileCache: { outcome: "hit", bytes: 1_500_000, durationMs: 300, savedBytes: 0 },
  rows: [
    { phase: "decided", at: 0, sinceStartMs: 0, durationMs: 0 },
    { phase: "imageUsable", at: 250, sinceStartMs: 250, durationMs: 250 },
    { phase: "lastByte", at: 750, sinceStartMs: 750, durationMs: 500 },
    { phase: "ready", at: 1_000, sinceStartMs: 1_000, durationMs: 250 },
  ],
  totalMs: 1_000,
};
const created = {
  application: "chat",
  outcome: "created",
  version: 2,
  replaces: 1,
  digest: "sha256:00",
  changes: [
    {
      kind: "changed",
      deployment: "main",
      path: "environment.RELEASE",
      before: '"1"',
      after: '"2"',
      needsNewReplicas: true,
    },
  ],
  dryRun: false,
};

describe("deploy", () => {
  test("hands the file over and says what changes", async () => {
    answers.set("POST /v1/applications", { status: 201, body: created });
    const { code, out } = await run(["deploy", file("application: chat")]);
    expect(code).toBe(0);
    expect(out).toBe('chat is version 2, after version 1\n  ~ main.environment.RELEASE: "1" → "2"\n');
    expect(asked[0]).toMatchObject({ body: "application: chat" });
    expect(asked[0]?.url.search).toBe("?dryRun=false");
  });
  test("lists every problem of the file like a compiler, and ends with 2", async () => {
    answers.set("POST /v1/applications", {
      status: 400,
      body: {
        error: {
          code: "invalidArgument",
          message: "2 problems",
          problems: [
            { line: 1, column: 14, path: "application", message: "must be lower-case", remedy: "" },
            {
              line: 4,
              column: 5,
              path: "deployments[0]",
              message: 'unknown field "imagee"',
              remedy: 'Did you mean "image"?',
            },
          ],
        },
      },
    });
    const { code, err } = await run(["deploy", file("x")]);
    expect(code).toBe(2);
    expect(err).toContain("app.yaml:1:14: application: must be lower-case\n");
    expect(err).toContain('app.yaml:4:5: deployments[0]: unknown field "imagee"\n  Did you mean "image"?');
  });
  test("--wait says each fact once where nobody looks on, and ends with the waterfall", async () => {
    const story = [
      application({ rollout: null }),
      application(),
      application(),
      application({
        servingVersion: 2,
        rollout: rollout("done", { endedAt: 2, traffic: 1 }),
        replicas: [replica("ready")],
      }),
    ];
    answers.set("POST /v1/applications", { body: created });
    answers.set("GET /v1/applications/chat", () => ({ body: story.length > 1 ? story.shift() : story[0] }));
    answers.set("GET /v1/applications/chat/waterfall", { body: [waterfall] });
    answers.set("GET /v1/images", { body: [] });
    answers.set("GET /v1/weights", { body: [] });
    const { code, out, err } = await run(["deploy", file("x"), "--wait"]);
    expect(code).toBe(0);
    expect(err.split("\n").filter((line) => line.includes("stepping"))).toHaveLength(1);
    expect(err).toContain("version 2 waits for its rollout to begin");
    expect(err).toContain("replica chat-main-v2-1a: processUp");
    expect(out).toContain("chat version 2 serves");
    expect(out).toContain("ready after 1.0 s");
  });
  test("--wait redraws in place where a person looks on", async () => {
    answers.set("POST /v1/applications", { body: created });
    const story = [
      application(),
      application({ servingVersion: 2, rollout: rollout("done", { endedAt: 2 }) }),
    ];
    answers.set("GET /v1/applications/chat", () => ({ body: story.length > 1 ? story.shift() : story[0] }));
    answers.set("GET /v1/applications/chat/waterfall", { body: [] });
    answers.set("GET /v1/images", {
      body: [
        {
          image: "oci:///w",
          platform: "linux/amd64",
          state: "wanted",
          manifestDigest: null,
          imageId: null,
          unpackedBytes: 0,
          storedBytes: 0,
          uploadedBytes: 0,
          durationMs: 0,
          failure: null,
          progress: { bytesDone: 1024 ** 2, bytesTotal: 4 * 1024 ** 2, bytesPerSecond: 1024 ** 2 },
          updatedAt: 0,
        },
      ],
    });
    answers.set("GET /v1/weights", { body: [] });
    const { err } = await run(["deploy", file("x"), "--wait"], { live: true });
    expect(err).toContain("\x1b[3A");
    expect(stripVTControlCharacters(err)).toContain("25 %  1.0 MiB of 4.0 MiB  1.0 MiB/s  3.0 s left");
  });
  test("--wait ends with 5 and the reason when the rollout was undone", async () => {
    answers.set("POST /v1/applications", { body: created });
    answers.set("GET /v1/applications/chat", {
      body: application({
        rollout: rollout("rolledBack", { endedAt: 2, reason: "crashLoop: the model is not there" }),
        replicas: [
          replica("gone", {
            failure: { code: "notFound", message: "no model", remedy: "Add it with 'pilotlight model add'." },
          }),
        ],
      }),
    });
    answers.set("GET /v1/images", { body: [] });
    answers.set("GET /v1/weights", { body: [] });
    const { code, err } = await run(["deploy", file("x"), "--wait"]);
    expect(code).toBe(5);
    expect(err).toContain("chat version 2 does not serve: crashLoop: the model is not there\n  Add it with");
  });
});

describe("looking", () => {
  test("status shows applications, nodes and who does not answer", async () => {
    answers.set("GET /v1/status", {
      body: {
        at: 10_000,
        applications: [application()],
        nodes: [
          {
            nodeId: "node-1",
            state: "alive",
            acceleratorKind: "cpu",
            accelerators: 2,
            acceleratorsUsed: 0.5,
            memoryMib: 4096,
            memoryUsedMib: 512,
            cordoned: false,
            replicas: 1,
            seenAt: 9_500,
          },
        ],
        images: [],
        weights: [],
        peers: [{ name: "logs", address: "127.0.0.1:7466", state: "unknown", why: "connect ECONNREFUSED" }],
      },
    });
    const { code, out } = await run(["status"]);
    expect(code).toBe(0);
    expect(out).toMatch(/chat +main +v2 +50 % +1\/2 +1 starting +smollm +stepping/);
    expect(out).toMatch(/node-1 +alive +0\.5 of 2 cpu +512 MiB of 4\.0 GiB +1 +500 ms ago/);
    expect(out).toContain("logs does not answer at 127.0.0.1:7466: connect ECONNREFUSED");
    expect(JSON.parse((await run(["status", "--json"])).out).applications[0].name).toBe("chat");
  });
  test("a waterfall is drawn from the decision to the first token", async () => {
    answers.set("GET /v1/replicas/chat-main-v2-1a/waterfall", { body: waterfall });
    const { out } = await run(["waterfall", "chat-main-v2-1a"]);
    const lines = out.split("\n");
    expect(lines[0]).toBe("chat-main-v2-1a on node-1: ready after 1.0 s");
    const bars = lines.slice(1, 5).map((line) => (line.match(/█/g) ?? []).length);
    expect(bars[0]).toBe(0);
    expect(Math.abs((bars[2] ?? 0) - 2 * (bars[1] ?? 0))).toBeLessThanOrEqual(1);
    expect(lines[4]).toMatch(/first token.*250 ms +1\.0 s$/);
    expect(lines[5]).toBe("  compile cache: 1.4 MiB restored in 300 ms");
  });
  test("the lines of one request are asked for everywhere, whatever the application", async () => {
    answers.set("GET /v1/logs", {
      body: new Set([
        {
          at: 0,
          level: "info",
          service: "worker",
          component: "engine",
          application: "chat",
          version: 2,
          deployment: "main",
          replicaId: "chat-main-v2-1a",
          requestId: "req-1",
          traceId: "",
          message: "prefill done",
          fields: { tokens: 12, stack: "…" },
        },
      ]),
    });
    const { out } = await run(["logs", "chat", "--request-id", "req-1"]);
    expect(out).toBe("00:00:00.000 INFO  worker/engine chat-main-v2-1a  prefill done  tokens=12\n");
    expect(asked[0]?.url.searchParams.get("application")).toBeNull();
    expect(asked[0]?.url.searchParams.get("requestId")).toBe("req-1");
  });
  test("an error in the middle of a stream is an error", async () => {
    answers.set("GET /v1/logs", {
      body: new Set([{ error: { code: "unavailable", message: "logs went away" } }]),
    });
    expect(await run(["logs"])).toMatchObject({ code: 4, err: "error: logs went away\n" });
  });
});

describe("ends", () => {
  test("with 3 for what is not there, with the remedy", async () => {
    expect(await run(["delete", "nothing"])).toEqual({
      code: 3,
      out: "",
      err: "error: no /v1/applications/nothing\n  Look again.\n",
    });
  });
  test("with 4 when nobody answers, and says where it looked", async () => {
    const { code, err } = await run(["status"], { env: { PILOTLIGHT_URL: "http://127.0.0.1:1" } });
    expect(code).toBe(4);
    expect(err).toContain("http://127.0.0.1:1");
    expect(err).toContain("npm start");
  });
  test("with 2 for wrong usage, with the error as JSON for machines", async () => {
    expect((await run(["nonsense"])).code).toBe(2);
    expect((await run(["deploy"])).code).toBe(2);
    const { code, err } = await run(["rollback", "chat", "--to", "x", "--json"]);
    expect(code).toBe(2);
    expect(JSON.parse(err).error.code).toBe("invalidArgument");
  });
  test("every command shows examples with --help, and 0", async () => {
    for (const command of [
      "deploy",
      "status",
      "logs",
      "chat",
      "waterfall",
      "decisions",
      "rollback",
      "delete",
    ]) {
      const { code, out } = await run([command, "--help"]);
      expect(code).toBe(0);
      expect(out, command).toMatch(/Example/);
    }
  });
});

describe("finding the platform", () => {
  test("goes upwards to the endpoints that the platform left, and sends the token", async () => {
    const root = mkdtempSync(join(scratch, "root-"));
    mkdirSync(join(root, ".pilotlight"));
    mkdirSync(join(root, "a/b"), { recursive: true });
    writeFileSync(
      join(root, ".pilotlight/endpoints.json"),
      JSON.stringify({ controlUrl: url, gatewayUrl: url, natsUrl: "nats://x", bucketUri: "file:///b" }),
    );
    answers.set("GET /v1/weights", { body: [] });
    const env = { PILOTLIGHT_URL: undefined as unknown as string, PILOTLIGHT_TOKEN: "secret" };
    expect((await run(["weights", "list"], { cwd: join(root, "a/b"), env })).code).toBe(0);
    expect(asked[0]?.token).toBe("Bearer secret");
  });
});

describe("settings", () => {
  test("what is generated is what the services say", async () => {
    const reference = await readReference();
    for (const [service, settings] of Object.entries(reference)) {
      const { out } = await run(["config", service, "--json"]);
      expect(out === "" ? null : JSON.parse(out), `${service}: npm run generate -w @pilotlight/cli`).toEqual(
        settings,
      );
    }
    expect(referencePage(reference)).toContain("| `BUCKET_URI` | `bucketUri` | required |");
  });
});
