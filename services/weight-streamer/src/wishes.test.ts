// What an engine may ask for beside the weights themselves: an order, another dtype, its share of experts.
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TensorReady, WeightStreamerService, type WeightsOpened } from "@pilotlight/contracts";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { type GrpcClient, grpcClient } from "@pilotlight/service";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAIN = new URL("./main.ts", import.meta.url);
let nats: TestServer;
let folder: string;
let service: ServiceProcess;
let client: GrpcClient<typeof WeightStreamerService>;
let source: string;

beforeAll(async () => {
  [nats, folder] = await Promise.all([startTestNats(), mkdtemp(join(tmpdir(), "streamer-wishes-"))]);
  source = `file://${folder}/model`;
  await addModel({
    from: "generated://mixtral/tiny?experts=4&heads=4&keyValueHeads=4",
    to: openStore(source),
  });
  service = await startServiceProcess(MAIN, {
    STRANGERS_ALLOWED: "true",
    NATS_URL: nats.url,
    NODE_ID: "wishes",
    GRPC_PORT: "0",
    STATE_DIR: join(folder, "state"),
    SEGMENT_DIR: join(folder, "shm"),
    DISK_BYTES_MAX: "0",
  });
  const { address } = await service.logged((line) => line.msg === "serving");
  client = grpcClient(WeightStreamerService, String(address), { timeoutMs: 10_000 });
});
afterAll(async () => {
  client.close();
  await service.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

type Wish = Partial<Parameters<typeof client.loadWeights>[0]>;
type Loaded = { opened: WeightsOpened; tensors: Map<string, { ready: TensorReady; bytes: Buffer }> };

/** Loads, reads every tensor where it says, and gives the lease back. */
async function load(wish: Wish = {}): Promise<Loaded> {
  const lease = new AbortController();
  const tensors: Loaded["tensors"] = new Map();
  let opened: WeightsOpened | undefined;
  const stream = client.loadWeights({ source, replicaId: "r", ...wish } as never, { signal: lease.signal });
  for await (const { event } of stream) {
    if (event.case === "opened") opened = event.value;
    if (event.case === "tensor")
      tensors.set(event.value.name, { ready: event.value, bytes: bytesOf(event.value) });
    if (event.case === "complete") break;
  }
  lease.abort();
  if (opened === undefined) throw new Error("never opened");
  return { opened, tensors };
}

function bytesOf({ path, offset, runBytes, strideBytes, runs }: TensorReady): Buffer {
  const file = readFileSync(path);
  const pieces = Array.from({ length: Number(runs) }, (_, i) => {
    const begin = Number(offset) + i * Number(strideBytes);
    return file.subarray(begin, begin + Number(runBytes));
  });
  return Buffer.concat(pieces);
}

const expertOf = (name: string) => /experts\.(\d+)\./.exec(name)?.[1];

describe("an engine", () => {
  test("is told what will come, and in which dtypes it was written", async () => {
    const { opened, tensors } = await load();
    expect(new Set(opened.tensorNames)).toEqual(new Set(tensors.keys()));
    expect(opened.tensorsTotal).toBe(tensors.size);
    expect(opened.metadata).toMatchObject({ format: "pt" });
  });
  test("gets its tensors in the order that it asks for, the others after them in file order", async () => {
    const { opened } = await load();
    const order = ["lm_head.weight", "model.layers.1."];
    const { tensors } = await load({ order, inOrder: true });
    const first = opened.tensorNames.filter((name) => name.startsWith("model.layers.1."));
    const rest = opened.tensorNames.filter((name) => name !== "lm_head.weight" && !first.includes(name));
    expect([...tensors.keys()]).toEqual(["lm_head.weight", ...first, ...rest]);
    expect([...(await load({ inOrder: true })).tensors.keys()]).toEqual(opened.tensorNames);
  });
  test("of an expert-parallel group has its own experts whole, none of the others', and its slices of the rest", async () => {
    const whole = await load();
    const ranks = await Promise.all([0, 1].map((rank) => load({ rank, ranks: 2, expertParallel: true })));
    const experts = ranks.map(
      ({ tensors }) => new Set([...tensors.keys()].map(expertOf).filter((one) => one)),
    );
    expect(experts).toEqual([new Set(["0", "1"]), new Set(["2", "3"])]);
    for (const { opened, tensors } of ranks) {
      expect(new Set(opened.tensorNames)).toEqual(new Set(tensors.keys()));
      expect(opened.tensorsTotal).toBeLessThan(whole.opened.tensorsTotal);
      for (const [name, { bytes }] of tensors) {
        if (expertOf(name) !== undefined)
          expect(bytes.equals(whole.tensors.get(name)!.bytes), name).toBe(true);
      }
    }
    const name = "model.layers.0.self_attn.q_proj.weight";
    const joined = Buffer.concat(ranks.map(({ tensors }) => tensors.get(name)!.bytes));
    expect(joined.equals(whole.tensors.get(name)!.bytes)).toBe(true);
  });
  test("gets floats in the dtype that it computes in, beside others who have them as they are", async () => {
    const [plain, wide] = await Promise.all([load(), load({ dtype: "F32" })]);
    for (const [name, { ready, bytes }] of plain.tensors) {
      expect(ready.dtype).toBe("BF16");
      const converted = wide.tensors.get(name)!;
      expect(converted.ready).toMatchObject({ dtype: "F32", shape: ready.shape });
      const halves = Uint32Array.from(new Uint16Array(new Uint8Array(bytes).buffer), (half) => half << 16);
      expect(converted.bytes.equals(Buffer.from(halves.buffer)), name).toBe(true);
    }
    const { weights } = await client.listWeights({});
    expect(weights.map(({ dtype }) => dtype).sort()).toEqual(["", "F32"]);
  });
  test("that asks for what cannot be hears which field is wrong", async () => {
    const wrong: [Wish, string][] = [
      [{ order: ["model.layers.77."] }, "order"],
      [{ dtype: "F8_E4M3" }, "dtype"],
      [{ rank: 2, ranks: 2, expertParallel: true }, "rank"],
    ];
    for (const [wish, field] of wrong) {
      await expect(load(wish)).rejects.toMatchObject({ code: "invalidArgument", field });
    }
  });
});
