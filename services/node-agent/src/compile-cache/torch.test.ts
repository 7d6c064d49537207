// Real compiled kernels: what torch.compile makes at the first start is what the next start, on a node that never ran it, takes.
// Minutes of work, so only where PILOTLIGHT_TORCH_PYTHON names a Python that has PyTorch; a C++ compiler is needed too.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CompileCacheOutcome, ReplicaPhase } from "@pilotlight/contracts";
import { startTestNats } from "@pilotlight/testing";
import { expect, test } from "vitest";
import { TestNode } from "../testing/harness.ts";

const PYTHON = process.env.PILOTLIGHT_TORCH_PYTHON;
const START_TIMEOUT_MS = 600_000;
const PROGRAM = `
import json, torch
from torch._dynamo.utils import counters
torch.compile(lambda x: torch.relu(x @ x).sum())(torch.ones(64, 64))
seen = counters["inductor"]
print(json.dumps({"hits": seen["fxgraph_cache_hit"], "misses": seen["fxgraph_cache_miss"]}))
`;

test.runIf(PYTHON !== undefined)(
  "torch.compile finds its kernels at the second start",
  { timeout: 3 * START_TIMEOUT_MS },
  async () => {
    const nats = await startTestNats();
    const node = await TestNode.start(nats.url);
    await node.startAgent({ COMPILE_CACHE_SETTLE_MS: "200" });
    const start = async (name: string) => {
      const replica = `chat-main-v2-${name}`;
      await node.want(replica, "ready", {
        startTimeoutMs: START_TIMEOUT_MS,
        environment: { TEST_ENGINE: JSON.stringify([PYTHON, "-c", PROGRAM]) },
        compileCache: { variables: ["TORCHINDUCTOR_CACHE_DIR"], sizeMaxMib: 64, key: "" },
      } as never);
      await expect
        .poll(() => node.latest(replica)?.phase, { timeout: START_TIMEOUT_MS })
        .toBe(ReplicaPhase.READY);
      const line = () => node.lines(replica).find(({ message }) => message === "engine");
      await expect.poll(line).toBeDefined();
      const { output } = JSON.parse(line()?.fieldsJson ?? "{}") as { output: string };
      return { replica, seen: JSON.parse(output) as { hits: number; misses: number } };
    };
    try {
      const first = await start("first");
      expect(first.seen).toEqual({ hits: 0, misses: 1 });
      await expect.poll(() => node.latest(first.replica)?.compileCache?.savedBytes ?? 0n).toBeGreaterThan(0n);
      await rm(join(node.stateDir, "compile-caches"), { recursive: true });
      const second = await start("second");
      expect(node.latest(second.replica)?.compileCache?.outcome).toBe(CompileCacheOutcome.HIT);
      expect(second.seen).toEqual({ hits: 1, misses: 0 });
    } finally {
      node.killWorkers();
      await node.close();
      await nats.stop();
    }
  },
);
