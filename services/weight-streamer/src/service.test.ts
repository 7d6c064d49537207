import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, truncate } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
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
import { addModel, generateModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { addTransformed } from "@pilotlight/onboarding";
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

async function start(settings: Record<string, string> = {}): Promise<void> {
  service = await startServiceProcess(MAIN, {
    STRANGERS_ALLOWED: "true",
    NATS_URL: nats.url,
    NODE_ID: "n1",
    GRPC_PORT: "0",
    ADMIN_PORT: "0",
    STATE_DIR: join(folder, "state"),
    SEGMENT_DIR: segmentDir(),
    DISK_BYTES_MAX: "0",
    ...settings,
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
  const stream = client.loadWeights({ source, replicaId: "r1" }, { signal: lease.signal });
  // The open stream is the lease; leaving a loop over it would close it.
  const events = stream[Symbol.asyncIterator]();
  for (let next = await events.next(); next.done !== true; next = await events.next()) {
    const { event } = next.value;
    if (event.case === "opened") opened = event.value;
    if (event.case === "tensor") tensors.push(event.value);
    if (event.case === "complete" && opened !== undefined)
      return { opened, tensors, bytesFetched: event.value.bytesFetched, release: () => lease.abort() };
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

/** A web server's folder whose weights come in drops, until it is told to hurry. */
async function slowSource(name: string) {
  const store = openStore(`file://${folder}/models/${name}`);
  // Larger than the first reading of its header.
  await addModel({
    from: "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4",
    to: store,
  });
  await store.close();
  let hurry = false;
  const server = createServer(async (request, response) => {
    const path = join(folder, "models", name, decodeURIComponent((request.url ?? "/").slice(1)));
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes === undefined) {
      response.writeHead(404).end();
      return;
    }
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const [first, last] = range === null ? [0, bytes.byteLength - 1] : [Number(range[1]), Number(range[2])];
    const end = Math.min(last, bytes.byteLength - 1);
    response.writeHead(range === null ? 200 : 206, {
      "content-length": end - first + 1,
      etag: '"one"',
      ...(range === null ? {} : { "content-range": `bytes ${first}-${end}/${bytes.byteLength}` }),
    });
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    const body = bytes.subarray(first, end + 1);
    // The header comes at once: what is slow is the load.
    if (hurry || !path.endsWith(".safetensors") || first > 0 || body.byteLength < bytes.byteLength) {
      response.end(body);
      return;
    }
    response.write(body.subarray(0, 100_000));
    const drops = setInterval(() => {
      if (!hurry) return;
      clearInterval(drops);
      response.end(body.subarray(100_000));
    }, 50);
    response.once("close", () => clearInterval(drops));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    uri: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    hurry(): void {
      hurry = true;
    },
    close(): void {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A rank's stream: what it heard so far, and how it ended. */
function attach(source: string, rank: number, ranks: number) {
  const lease = new AbortController();
  const heard: string[] = [];
  const ended = (async () => {
    const request = { source, replicaId: "r1", rank, ranks };
    for await (const { event } of client.loadWeights(request, { signal: lease.signal })) {
      if (event.case !== undefined) heard.push(event.case);
    }
  })();
  ended.catch(() => {});
  return { heard, ended, leave: () => lease.abort() };
}

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
  test("a hint that came while the node still booted is followed, an old one is not", async () => {
    const source = await model("booting");
    for (const nodeId of ["n2", "n3"]) await publish(bus, EVENTS.weightsWanted, { nodeId, source });
    const boot = (nodeId: string, more: Record<string, string>) =>
      startServiceProcess(MAIN, {
        NATS_URL: nats.url,
        NODE_ID: nodeId,
        GRPC_PORT: "0",
        STATE_DIR: join(folder, `state-${nodeId}`),
        SEGMENT_DIR: join(folder, `shm-${nodeId}`),
        DISK_BYTES_MAX: "0",
        ...more,
      });
    const late = await boot("n3", { HINT_AGE_MS_MAX: "0" });
    const booted = await boot("n2", {});
    await expect.poll(() => loaded.some((event) => event.nodeId === "n2")).toBe(true);
    expect(loaded.some((event) => event.nodeId === "n3")).toBe(false);
    await Promise.all([late.stop(), booted.stop()]);
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
  test("a replica gets what its version names, and nothing else", async () => {
    const [own, other] = [await model("own"), await model("other")];
    const assignment = {
      replicaId: "app-chat-v1-x",
      application: "app",
      version: 1,
      nodeId: "n1",
      deployment: { name: "chat", model: { source: own } },
    };
    await publish(bus, EVENTS.replicaWanted, { assignment });
    const ask = async (source: string, replicaId = assignment.replicaId) => {
      const lease = new AbortController();
      for await (const { event } of client.loadWeights({ source, replicaId }, { signal: lease.signal })) {
        if (event.case === "opened") return lease.abort();
      }
    };
    await expect
      .poll(() =>
        ask(other).then(
          () => "given",
          (error) => error.code,
        ),
      )
      .toBe("permissionDenied");
    await ask(own);
    // Written down: a streamer that starts anew knows it still.
    await service.kill("SIGKILL");
    client.close();
    await start();
    await expect(ask(other)).rejects.toMatchObject({ code: "permissionDenied", field: "source" });
    await ask(other, "a tool");
    // As the platform runs it nobody else is served at all.
    await service.stop();
    client.close();
    await start({ STRANGERS_ALLOWED: "false", ORDER_WAIT_MS: "100" });
    await ask(own);
    await expect(ask(own, "a tool")).rejects.toMatchObject({ code: "permissionDenied", field: "replicaId" });
    await service.stop();
    client.close();
    await start();
  });
  test("a model whose approval was taken back is given to nobody any more; who has it keeps it", async () => {
    const [source, hinted] = [await model("withdrawn"), await model("withdrawn-hinted")];
    const running = await load(source);
    const say = (name: string, withdrawn: boolean) =>
      publish(bus, EVENTS.modelPermissionSet, { source: name, withdrawn, withdrawnBy: "alice" });
    for (const name of [hinted, source]) await say(name, true);
    const again = () =>
      load(source).then(
        ({ release }) => release(),
        (error) => error,
      );
    await expect.poll(again).toMatchObject({
      code: "preconditionFailed",
      field: "deployments.model.source",
      message: expect.stringContaining(`${source} was taken back by alice`),
      remedy: expect.stringContaining("pilotlight model approve"),
    });
    expect(readFileSync((running.tensors[0] as TensorReady).path).length).toBeGreaterThan(0);
    const pins = async () =>
      (await client.listWeights({})).weights.find((held) => held.source === source)?.pins;
    expect(await pins()).toBe(1);
    // Nor is it fetched ahead.
    await publish(bus, EVENTS.weightsWanted, { nodeId: "n1", source: hinted });
    await expect
      .poll(() => failed.find((event) => event.source === hinted)?.failure?.code)
      .toBe("preconditionFailed");
    expect((await client.listWeights({})).weights.some((held) => held.source === hinted)).toBe(false);
    // A streamer that starts anew knows it still, until it is approved again.
    running.release();
    await service.stop();
    client.close();
    await start();
    expect(await again()).toMatchObject({ code: "preconditionFailed" });
    await say(source, false);
    await expect.poll(again).toBeUndefined();
  });
  test("ranks of a model that was cut for them get what is theirs, whole and in one piece", async () => {
    const from = `file://${folder}/models/to-cut`;
    await addModel({ from: "generated://llama/tiny?heads=4&keyValueHeads=4", to: openStore(from) });
    const to = `file://${folder}/models/cut`;
    const transformation = { scheme: null, shardBytesMax: 5e9, ranks: 2, judge: false };
    await addTransformed({ from, to: openStore(to), transformation });
    const rankOf = async (source: string) => {
      const lease = new AbortController();
      const tensors: TensorReady[] = [];
      for await (const { event } of client.loadWeights(
        { source, replicaId: "r1", rank: 1, ranks: 2 },
        { signal: lease.signal },
      )) {
        if (event.case === "tensor") tensors.push(event.value);
        if (event.case === "complete") break;
      }
      const bytes = tensors.map(({ name, path, offset, runBytes, strideBytes, runs }) => {
        const file = readFileSync(path);
        const pieces = Array.from({ length: Number(runs) }, (_, i) => {
          const begin = Number(offset) + i * Number(strideBytes);
          return file.subarray(begin, begin + Number(runBytes));
        });
        return [name, createHash("sha256").update(Buffer.concat(pieces)).digest("hex")] as const;
      });
      lease.abort();
      return { bytes: Object.fromEntries(bytes), runs: tensors.map(({ runs }) => runs) };
    };
    const [sliced, cut] = [await rankOf(from), await rankOf(to)];
    expect(cut.bytes).toEqual(sliced.bytes);
    expect(new Set(cut.runs)).toEqual(new Set([1n]));
    expect(new Set(sliced.runs).size).toBeGreaterThan(1);
  });
  test("a hint for a group fetches every rank's own weights ahead", async () => {
    const from = `file://${folder}/models/to-cut-ahead`;
    await addModel({ from: "generated://llama/tiny?heads=4&keyValueHeads=4", to: openStore(from) });
    const to = `file://${folder}/models/cut-ahead`;
    const transformation = { scheme: null, shardBytesMax: 5e9, ranks: 2, judge: false };
    await addTransformed({ from, to: openStore(to), transformation });
    for (const source of [from, to])
      await publish(bus, EVENTS.weightsWanted, { nodeId: "n1", source, ranks: 2 });
    const held = async () =>
      (await client.listWeights({})).weights.filter(({ complete }) => complete).map(({ source }) => source);
    const wanted = [from, `${to}/rank-0-of-2`, `${to}/rank-1-of-2`];
    await expect.poll(held).toEqual(expect.arrayContaining(wanted));
  });
  test("killed in mid-load, every rank hears of it at once, and the next streamer loads anew", async () => {
    const slow = await slowSource("killed");
    const ranks = [0, 1].map((rank) => attach(slow.uri, rank, 2));
    await expect.poll(() => ranks.every(({ heard }) => heard.includes("opened"))).toBe(true);
    expect(segmentFiles().length).toBeGreaterThan(0);
    await service.kill("SIGKILL");
    for (const { ended, heard } of ranks) {
      await expect(ended).rejects.toMatchObject({ code: "unavailable" });
      expect(heard).not.toContain("complete");
    }
    client.close();
    await start();
    expect(segmentFiles()).toEqual([]);
    slow.hurry();
    const again = [0, 1].map((rank) => attach(slow.uri, rank, 2));
    await expect.poll(() => again.every(({ heard }) => heard.includes("complete"))).toBe(true);
    for (const { leave } of again) leave();
    slow.close();
  });
  test("a rank that dies takes nothing from the others; with the last one the load and its memory go", async () => {
    const slow = await slowSource("rank-dies");
    const [first, second] = [attach(slow.uri, 0, 2), attach(slow.uri, 1, 2)];
    await expect.poll(() => first.heard.includes("opened") && second.heard.includes("opened")).toBe(true);
    first.leave();
    await expect(first.ended).rejects.toMatchObject({ code: "cancelled" });
    const pins = async () =>
      (await client.listWeights({})).weights.find(({ source }) => source === slow.uri)?.pins;
    await expect.poll(pins).toBe(1);
    const before = segmentFiles().length;
    second.leave();
    await expect.poll(pins).toBeUndefined();
    await expect.poll(() => segmentFiles().length).toBeLessThan(before);
    slow.close();
  });
  test("a rank that does not read its stream holds nobody up", async () => {
    const slow = await slowSource("rank-stalls");
    const lease = new AbortController();
    const stalled = client
      .loadWeights({ source: slow.uri, replicaId: "r1", rank: 0, ranks: 2 }, { signal: lease.signal })
      [Symbol.asyncIterator]();
    await stalled.next();
    slow.hurry();
    const other = attach(slow.uri, 1, 2);
    await expect.poll(() => other.heard.includes("complete")).toBe(true);
    lease.abort();
    other.leave();
    slow.close();
  });
  test("says of every place and queue what it holds and may hold, and what loads took", async () => {
    const held = await load(await model("watched"));
    const { adminUrl } = await service.logged((line) => line.msg === "ready");
    const text = await (await fetch(`${adminUrl}/metrics`)).text();
    for (const place of ["memory", "disk"]) {
      for (const kind of ["held", "ready", "max"]) {
        expect(text).toMatch(new RegExp(`pilotlight_weights_place_bytes\\{place="${place}",kind="${kind}"`));
      }
    }
    expect(text).toMatch(/pilotlight_weights_activity\{kind="leases".*\} [1-9]/);
    expect(text).toMatch(/pilotlight_weights_activity\{kind="rangesAllowed"/);
    expect(text).toMatch(/pilotlight_weights_requests_total\{kind="all".*\} [1-9]/);
    held.release();
  });
  test("stops cleanly while a lease is held", async () => {
    await load(await model("c"));
    expect(await service.stop()).toBe(0);
    await start();
  });
});
