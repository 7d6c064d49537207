// A worker for tests: attaches as the real one does and behaves as MODE says.
//   ready         gets ready, drains when told, takes DRAIN_MS for it
//   deaf          gets ready, ignores drain and SIGTERM, has a child that does the same
//   crashStart    says something on stderr and ends before it attaches
//   silent        never attaches
//   failing       reports a failure and stays
// With TEST_COMPILE_CACHE it says what is in that folder, and compiles something into it. With TEST_ENGINE (a command as JSON) it
// runs that first and says its output.
import { execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fromJson } from "@bufbuild/protobuf";
import {
  type AttachWorkerRequestSchema,
  type MessageInitShape,
  NodeAgentService,
  ReplicaAssignmentSchema,
  ReplicaPhase,
  timestampFromMs,
} from "@pilotlight/contracts";
import { grpcClient } from "@pilotlight/service";

type Report = MessageInitShape<typeof AttachWorkerRequestSchema>;

const {
  MODE,
  ASSIGNMENT_FILE = "",
  REPLICA_TOKEN = "",
  NODE_AGENT_ADDRESS = "",
  DRAIN_MS = "0",
  TEST_COMPILE_CACHE,
  TEST_ENGINE,
} = process.env;
const say = (msg: string, more: object = {}) =>
  process.stdout.write(`${JSON.stringify({ level: "info", msg, ...more })}\n`);

if (MODE === "crashStart") {
  process.stderr.write("loading\nValueError: no such thing\n");
  process.exit(3);
}
if (MODE === "silent") await sleep(3_600_000);
if (MODE === "deaf") {
  process.on("SIGTERM", () => say("ignored SIGTERM"));
  spawn(process.execPath, ["-e", "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)"], {
    stdio: "ignore",
  });
} else process.on("SIGTERM", () => process.exit(0));

const { replicaId } = fromJson(ReplicaAssignmentSchema, JSON.parse(readFileSync(ASSIGNMENT_FILE, "utf8")));
say("up", { requestId: "req-1", environment: Object.keys(process.env).sort(), pid: process.pid });

if (TEST_COMPILE_CACHE !== undefined) {
  say("cache", { files: readdirSync(TEST_COMPILE_CACHE) });
  writeFileSync(join(TEST_COMPILE_CACHE, "kernel.bin"), "compiled");
}
if (TEST_ENGINE !== undefined) {
  const [program = "", ...args] = JSON.parse(TEST_ENGINE) as string[];
  say("engine", { output: execFileSync(program, args, { encoding: "utf8" }) });
}

const startedAt = Date.now();
const report: Report = {
  replicaId,
  token: REPLICA_TOKEN,
  phase: MODE === "failing" ? ReplicaPhase.PROCESS_UP : ReplicaPhase.READY,
  marks: [ReplicaPhase.PROCESS_UP, ReplicaPhase.READY].map((phase) => ({
    phase,
    at: timestampFromMs(startedAt),
  })),
  endpoint: `http://127.0.0.1:${process.pid}`,
  inFlightMax: 4,
  ...(MODE === "failing"
    ? { marks: [], failure: { code: "notFound", message: "no such model", remedy: "Add it." } }
    : {}),
};

async function* reports(): AsyncGenerator<Report> {
  yield report;
  await new Promise(() => {}); // open until either side ends
}

for (;;) {
  const agent = grpcClient(NodeAgentService, NODE_AGENT_ADDRESS, { timeoutMs: 5_000 });
  try {
    for await (const { command } of agent.attachWorker(reports())) {
      if (command.case !== "drain" || MODE === "deaf") continue;
      say("draining");
      await sleep(Number(DRAIN_MS));
      process.exit(0);
    }
  } catch (error) {
    say("detached", { reason: (error as Error).message });
  }
  agent.close();
  await sleep(50);
}
