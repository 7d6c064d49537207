// A replica as a test starts it: the real process, with an assignment file as the node agent writes it.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  create,
  type DeploymentSpecSchema,
  type MessageInitShape,
  ReplicaAssignmentSchema,
  toJson,
} from "@pilotlight/contracts";
import { type ServiceProcess, startServiceProcess } from "@pilotlight/testing";
import OpenAI from "openai";

export const TOKEN = "token-of-the-test";

export type ReplicaOptions = {
  deployment: MessageInitShape<typeof DeploymentSpecSchema>;
  nodeAgentAddress: string;
  weightStreamerAddress: string;
  environment?: Record<string, string>;
};

export type TestReplica = { process: ServiceProcess; url: string; client: OpenAI };

/** Starts a worker and waits until it is ready. */
export async function startReplica(options: ReplicaOptions): Promise<TestReplica> {
  const directory = await mkdtemp(join(tmpdir(), "pilotlight-worker-"));
  const assignmentFile = join(directory, "assignment.json");
  const assignment = create(ReplicaAssignmentSchema, {
    replicaId: "app-chat-v3-abc",
    application: "app",
    version: 3,
    nodeId: "node",
    deployment: options.deployment,
  });
  await writeFile(assignmentFile, JSON.stringify(toJson(ReplicaAssignmentSchema, assignment)));
  try {
    const process = await startServiceProcess(new URL("../main.ts", import.meta.url), {
      ASSIGNMENT_FILE: assignmentFile,
      REPLICA_TOKEN: TOKEN,
      NODE_AGENT_ADDRESS: options.nodeAgentAddress,
      WEIGHT_STREAMER_ADDRESS: options.weightStreamerAddress,
      NATS_URL: "nats://127.0.0.1:1",
      REATTACH_DELAY_MS_MAX: "200",
      LOG_LEVEL: "debug",
      ...options.environment,
    });
    const { endpoint } = await process.logged((line) => line.msg === "replica ready");
    const url = String(endpoint);
    return { process, url, client: new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 }) };
  } finally {
    await rm(directory, { recursive: true });
  }
}
