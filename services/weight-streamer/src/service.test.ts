import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, connectBus, consumeIdempotent, publish } from "@pilotlight/bus";
import {
  EVENTS,
  type TensorReady,
  WeightStreamerService,
  type WeightsFailed,
  type WeightsLoaded,
  type WeightsOpened,
} from "@pilotlight/contracts";
import { generateModel } from "@pilotlight/models";
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
let bus: Bus;
const loaded: WeightsLoaded[] = [];
const failed: WeightsFailed[] = [];

const segmentDir = () => join(folder, "shm");
const segmentFiles = () => readdirSync(segmentDir()).filter((name) => name.startsWith("weights-"));

async function start(): Promise<void> {
  service = await startServiceProcess(MAIN, {
    NATS_URL: nats.url,
    NODE_ID: "n1",
    GRPC_PORT: "0",
    STATE_DIR: join(folder, "state"),
    SEGMENT_DIR: segmentDir(),
    DISK_BYTES_MAX: "0",
  });
  const { address } = await service.logged((line) => line.msg === "serving");
  client = grpcClient(WeightStreamerService, String(address), { timeoutMs: 10_000 });
}

async function model(name: string): Promise<string> {
  const uri = `file://${folder}/models/${name}`;
  const store = openStore(uri);
  for (const file of generateModel({ architecture: "llama", preset: "tiny", seed: 7 })) {
    await store.put(file.name, Buffer.concat(await Array.fromAsync(file.open())));
  }
  return uri;
}

type Load = { opened: WeightsOpened; tensors: TensorReady[]; bytesFetched: bigint; release(): void };

/** Loads to completion and keeps the lease. */
async function load(source: string): Promise<Load> {
  const lease = new AbortController();
  const tensors: TensorReady[] = [];
  let opened: WeightsOpened | undefined;
  for await (const { event } of client.loadWeights({ source, replicaId: "r1" }, { signal: lease.signal })) {
    if (event.case === "opened") opened = event.value;
    if (event.case === "tensor") tensors.push(event.value);
    if (event.case === "complete" && opened !== undefined) {
      // The stream must stay open for the lease; leaving the loop would close it.
      return { opened, tensors, bytesFetched: event.value.bytesFetched, release: () => lease.abort() };
    }
  }
  throw new Error("the stream ended early");
}

beforeAll(async () => {
  [nats, folder] = await Promise.all([startTestNats(), mkdtemp(join(tmpdir(), "streamer-"))]);
  bus = await connectBus({ url: nats.url, service: "listener", connectTimeoutMs: 10_000, streamReplicas: 1 });
  await consumeIdempotent(
    bus,
    { name: "weights", from: "beginning" },
    {
      weightsLoaded: (event) => void loaded.push(event),
      weightsFailed: (event) => void failed.push(event),
    },
  );
  await start();
});
afterAll(async () => {
  client.close();
  await bus.close();
  await service.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

describe("the weight streamer", () => {
  test("tensors can be mapped where it says, byte for byte, with the small files beside them", async () => {
    const source = await model("a");
    const { opened, tensors } = await load(source);
    expect(Object.keys(opened.files)).toEqual(expect.arrayContaining(["config.json", "tokenizer.json"]));
    expect(tensors.length).toBe(opened.tensorsTotal);
    const original = readFileSync(join(folder, "models/a/model.safetensors"));
    const header = JSON.parse(
      original.subarray(8, 8 + Number(original.readBigUInt64LE(0))).toString(),
    ) as Record<string, { data_offsets: [number, number] }>;
    const body = 8 + Number(original.readBigUInt64LE(0));
    const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
    for (const tensor of tensors) {
      const [begin, end] = header[tensor.name]!.data_offsets;
      const mapped = readFileSync(tensor.path).subarray(
        Number(tensor.offset),
        Number(tensor.offset + tensor.length),
      );
      expect(digest(mapped), tensor.name).toBe(digest(original.subarray(body + begin, body + end)));
    }
    await expect
      .poll(() => loaded.some((event) => event.source === source && event.nodeId === "n1"))
      .toBe(true);
  });
  test("a hint fetches ahead; the replica then finds the weights there", async () => {
    const source = await model("hinted");
    await publish(bus, EVENTS.weightsWanted, { nodeId: "n1", source });
    await expect
      .poll(
        async () => (await client.listWeights({})).weights.find((held) => held.source === source)?.complete,
      )
      .toBe(true);
    const second = await load(source);
    expect(second.opened.cached).toBe(true);
    expect(second.bytesFetched).toBe(0n);
  });
  test("what is not there, or is cut short, is a clear error by call and by event", async () => {
    const nowhere = `file://${folder}/models/nowhere`;
    await expect(load(nowhere)).rejects.toMatchObject({ code: "notFound" });
    const cut = await model("cut");
    await truncate(join(folder, "models/cut/model.safetensors"), 5_000);
    await expect(load(cut)).rejects.toMatchObject({ code: "corrupt" });
    await expect
      .poll(() => failed.map((event) => event.failure?.code).sort())
      .toEqual(["corrupt", "notFound"]);
    await expect(load("")).rejects.toMatchObject({ code: "invalidArgument", field: "source" });
  });
  test("a killed streamer leaves nothing behind for the next one, which serves again", async () => {
    const source = await model("b");
    await load(source);
    await service.kill("SIGKILL");
    client.close();
    await start();
    expect(segmentFiles()).toEqual([]);
    expect((await load(source)).tensors.length).toBeGreaterThan(0);
  });
  test("stops cleanly while a lease is held", async () => {
    await load(await model("c"));
    expect(await service.stop()).toBe(0);
    await start();
  });
});
