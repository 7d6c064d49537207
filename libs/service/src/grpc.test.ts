import { type LogLine, LogsService, NodeAgentService, RolloutService } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { currentRequestId, startTracing, withRequestId } from "@pilotlight/telemetry";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type GrpcDoor, grpcClient, grpcService, serveGrpc } from "./index.ts";

let door: GrpcDoor;
let stopTracing: () => Promise<void>;
let released = 0;

beforeAll(async () => {
  stopTracing = await startTracing({ service: "test", otlpUrl: "" });
  door = await serveGrpc("127.0.0.1:0", [
    grpcService(RolloutService, {
      async listRollouts(request) {
        if (request.application === "bad") {
          throw new PlatformError("invalidArgument", "application 'bad' is not a name", {
            field: "application",
            remedy: "Use another.",
          });
        }
        return { rollouts: [{ steps: [{ reason: currentRequestId() ?? "none" }] }] };
      },
    }),
    grpcService(LogsService, {
      async *searchLogs(request, { signal }) {
        try {
          for (let i = 0; i < request.limit && !signal.aborted; i++)
            yield { lines: [{ message: `line ${i}` }] };
          if (request.text === "fail")
            throw new PlatformError("unavailable", "segment is gone", { retryAfterMs: 5 });
          if (request.follow) await new Promise((resolve) => signal.addEventListener("abort", resolve));
        } finally {
          released++;
        }
      },
    }),
    grpcService(NodeAgentService, {
      async *attachWorker(reports) {
        for await (const report of reports) {
          yield { command: { case: "drain", value: {} } };
          if (report.inFlight === 2) return;
        }
      },
      async listReplicas() {
        return {};
      },
    }),
  ]);
});
afterAll(async () => {
  await door.close(100);
  await stopTracing();
});

describe("gRPC", () => {
  test("a unary call carries the request ID and gives a typed answer", async () => {
    const client = grpcClient(RolloutService, door.address, { timeoutMs: 5_000 });
    const answer = await withRequestId("req-7", () => client.listRollouts({ application: "chat" }));
    expect(answer.rollouts[0]?.steps[0]?.reason).toBe("req-7");
    client.close();
  });
  test("an error arrives with code, field and remedy", async () => {
    const client = grpcClient(RolloutService, door.address, { timeoutMs: 5_000 });
    await expect(client.listRollouts({ application: "bad" })).rejects.toMatchObject({
      code: "invalidArgument",
      field: "application",
      remedy: "Use another.",
      message: "application 'bad' is not a name",
    });
    client.close();
  });
  test("a stream delivers everything in order, then its error", async () => {
    const client = grpcClient(LogsService, door.address, { timeoutMs: 5_000 });
    const lines: LogLine[] = [];
    const reading = (async () => {
      for await (const page of client.searchLogs({ limit: 500, text: "fail" })) lines.push(...page.lines);
    })();
    await expect(reading).rejects.toMatchObject({ code: "unavailable", retryAfterMs: 5 });
    expect(lines.map((line) => line.message)).toEqual(Array.from({ length: 500 }, (_, i) => `line ${i}`));
    client.close();
  });
  test("a reader that stops frees the server's side", async () => {
    const client = grpcClient(LogsService, door.address, { timeoutMs: 5_000 });
    const before = released;
    for await (const page of client.searchLogs({ limit: 1, follow: true })) if (page.lines.length > 0) break;
    await expect.poll(() => released).toBe(before + 1);
    client.close();
  });
  test("both sides of a stream talk, and either may end it", async () => {
    const client = grpcClient(NodeAgentService, door.address, { timeoutMs: 5_000 });
    async function* reports() {
      yield { replicaId: "a", inFlight: 1 };
      yield { replicaId: "a", inFlight: 2 };
      await new Promise(() => {});
    }
    const commands: string[] = [];
    for await (const command of client.attachWorker(reports())) commands.push(command.command.case ?? "none");
    expect(commands).toEqual(["drain", "drain"]);
    client.close();
  });
  test("nobody at home is 'unavailable' and names who was asked", async () => {
    const client = grpcClient(RolloutService, "127.0.0.1:1", { timeoutMs: 5_000 });
    await expect(client.listRollouts({})).rejects.toMatchObject({
      code: "unavailable",
      message: expect.stringContaining("RolloutService at 127.0.0.1:1"),
    });
    client.close();
  });
});
