import { createHash } from "node:crypto";
import { mkdtemp, readdir, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, connectBus, consumeIdempotent, publish } from "@pilotlight/bus";
import {
  archiveKey,
  compileCacheKey,
  formatRecord,
  recordKey,
  specificationOf,
} from "@pilotlight/compile-caches";
import {
  create,
  DeploymentSpecSchema,
  EVENTS,
  ImageConverterService,
  type ImageFailed,
  type ImageReady,
} from "@pilotlight/contracts";
import { openStore as openBucket } from "@pilotlight/object-store";
import { writeOciLayout } from "@pilotlight/oci";
import { type GrpcClient, grpcClient } from "@pilotlight/service";
import { openStore } from "@pilotlight/store";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  startTestPostgres,
  type TestPostgres,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let nats: TestServer;
let postgres: TestPostgres;
let folder: string;
let service: ServiceProcess;
let environment: Record<string, string>;
let client: GrpcClient<typeof ImageConverterService>;
let bus: Bus;
const ready: ImageReady[] = [];
const failed: ImageFailed[] = [];

const MAIN = new URL("./main.ts", import.meta.url);

async function start(): Promise<void> {
  service = await startServiceProcess(MAIN, environment);
  const serving = await service.logged((line) => line.msg === "serving");
  client = grpcClient(ImageConverterService, String(serving.address), { timeoutMs: 20_000 });
}

beforeAll(async () => {
  [nats, postgres, folder] = await Promise.all([
    startTestNats(),
    startTestPostgres(),
    mkdtemp(join(tmpdir(), "converter-")),
  ]);
  environment = {
    NATS_URL: nats.url,
    POSTGRES_URL: await postgres.database(),
    BUCKET_URI: `file://${folder}/bucket`,
    GRPC_PORT: "0",
    CLAIM_MS: "1000",
    POLL_INTERVAL_MS: "200",
  };
  bus = await connectBus({ url: nats.url, service: "listener", connectTimeoutMs: 10_000, streamReplicas: 1 });
  await consumeIdempotent(
    bus,
    { name: "images", from: "beginning" },
    {
      imageReady: (event) => void ready.push(event),
      imageFailed: (event) => void failed.push(event),
    },
  );
  await start();
});
afterAll(async () => {
  client.close();
  await bus.close();
  await service.stop();
  await nats.stop();
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
});

/** As if everything had been done half a year ago. */
async function makeOlder(): Promise<void> {
  const then = new Date(Date.now() - 180 * 24 * 3_600_000);
  for (const entry of await readdir(join(folder, "bucket"), { recursive: true, withFileTypes: true }))
    if (entry.isFile()) await utimes(join(entry.parentPath, entry.name), then, then);
  const store = await openStore({
    url: String(environment.POSTGRES_URL),
    schema: "test",
    migrations: [],
    connectionsMax: 1,
    connectTimeoutMs: 10_000,
  });
  await store.sql`update image_converter.conversion set wanted_at = ${then}`;
  await store.close();
}

/** An OCI layout with one layer: a file of `bytes` bytes that no other image has. */
async function layout(name: string, bytes: number): Promise<string> {
  const directory = join(folder, name);
  const content = Buffer.alloc(bytes, name);
  for (let i = 0; i + 4 <= bytes; i += 64) content.writeUInt32LE((i * 2_654_435_761) % 2 ** 32, i);
  await writeOciLayout({
    directory,
    tag: "v1",
    platform: { os: "linux", architecture: "amd64" },
    layers: [[{ to: "/data", content, mode: 0o755 }]],
    run: { entrypoint: ["/data"] },
    gzipLevel: 1,
  });
  return `oci://${directory}:v1`;
}

async function ensure(image: string): Promise<ImageReady> {
  for await (const { event } of client.ensureImage({ image, platform: "linux/amd64" }))
    if (event.case === "ready") return event.value;
  throw new Error("the stream ended without a result");
}

describe("the image converter", () => {
  test("an image asked for by event becomes ready, and asking again changes nothing", async () => {
    const image = await layout("small", 200_000);
    await publish(bus, EVENTS.imageWanted, { image, platform: "linux/amd64" });
    await expect.poll(() => ready.find((event) => event.image === image), { timeout: 20_000 }).toBeDefined();
    const first = ready.find((event) => event.image === image);
    const again = await ensure(image);
    expect(again).toMatchObject({
      imageId: first?.imageId,
      manifestDigest: first?.manifestDigest,
      uploadedBytes: 0n,
    });
    const listed = await client.listImages({});
    expect(listed.images.map((row) => row.imageId)).toContain(again.imageId);
  });
  test("many who ask at once get one conversion", async () => {
    const image = await layout("joined", 3_000_000);
    const results = await Promise.all(Array.from({ length: 8 }, () => ensure(image)));
    expect(new Set(results.map((result) => result.imageId)).size).toBe(1);
    const conversions = () =>
      service.lines.filter(
        (line) => line.msg === "image ready" && line.image === image && Number(line.uploadedBytes) > 0,
      );
    // The outcome is there before it is logged.
    await expect.poll(conversions).toHaveLength(1);
  });
  test("an image that is not there is a clear error, by call and by event", async () => {
    const image = `oci://${folder}/nowhere:v1`;
    await expect(ensure(image)).rejects.toMatchObject({
      code: "notFound",
      message: expect.stringContaining("nowhere"),
    });
    await expect.poll(() => failed.find((event) => event.image === image)?.failure?.code).toBe("notFound");
    await expect(ensure("")).rejects.toMatchObject({ code: "invalidArgument", field: "image" });
    await expect(ensure("NOT A REFERENCE")).rejects.toMatchObject({ code: "invalidArgument" });
  });
  test("work of a killed converter is taken over by the next", async () => {
    const image = await layout("killed", 60_000_000);
    await publish(bus, EVENTS.imageWanted, { image, platform: "linux/amd64" });
    await expect.poll(() => bus.connection.stats().inMsgs > 0).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await service.kill("SIGKILL");
    client.close();
    await start();
    await expect.poll(() => ready.find((event) => event.image === image), { timeout: 30_000 }).toBeDefined();
  });
  test("removes what no version runs and nobody asked for", async () => {
    const [kept, forgotten] = [await layout("kept", 300_000), await layout("forgotten", 300_000)];
    const digests = await Promise.all(
      [kept, forgotten].map(async (image) => (await ensure(image)).manifestDigest),
    );
    await publish(bus, EVENTS.boundsSet, {
      application: "app",
      generation: 1n,
      versions: [{ version: 1, spec: { application: "app", deployments: [{ name: "main", image: kept }] } }],
    });
    await service.stop();
    await makeOlder();
    environment.GARBAGE_INTERVAL_MS = "300";
    await start();
    const objects = () => readdir(join(folder, "bucket/images"));
    await expect.poll(objects).not.toContain(digests[1]?.slice(7));
    expect(await objects()).toContain(digests[0]?.slice(7));
    delete environment.GARBAGE_INTERVAL_MS;
    await service.stop();
    await start();
    // What is gone is converted again when somebody needs it.
    expect((await ensure(forgotten)).manifestDigest).toBe(digests[1]);
    expect(await objects()).toContain(digests[1]?.slice(7));
  });
  test("removes what engines compiled for versions that are gone", async () => {
    const image = await layout("engine", 300_000);
    const { manifestDigest } = await ensure(image);
    const deployment = create(DeploymentSpecSchema, {
      name: "main",
      image,
      compileCache: { variables: ["TRITON_CACHE_DIR"], sizeMaxMib: 1, key: "" },
    });
    const bucket = openBucket(environment.BUCKET_URI ?? "");
    const save = async (application: string) => {
      const specification = specificationOf(application, deployment) ?? "";
      const key = compileCacheKey(specification, manifestDigest, { acceleratorKind: "", cpu: "" });
      const archive = createHash("sha256").update(application).digest("hex");
      const owner = { application, deployment: "main", specification, manifestDigest };
      await bucket.put(archiveKey(key, archive), application);
      await bucket.put(recordKey(key), formatRecord({ ...owner, archive, bytes: 1, files: 1 }));
      return key;
    };
    const [kept, gone] = [await save("compiled"), await save("left")];
    await publish(bus, EVENTS.boundsSet, {
      application: "compiled",
      generation: 1n,
      versions: [{ version: 1, spec: { application: "compiled", deployments: [deployment] } }],
    });
    // Seen unused two grace periods ago.
    await bucket.put(
      "garbage/compile-caches.json",
      JSON.stringify({ [gone]: Date.now() - 14 * 24 * 3_600_000 }),
    );
    await service.stop();
    await makeOlder();
    environment.GARBAGE_INTERVAL_MS = "300";
    await start();
    const objects = async () => (await Array.fromAsync(bucket.list({ prefix: "compile-caches/" }))).length;
    await expect.poll(objects).toBe(2);
    expect(await bucket.head(recordKey(kept))).toBeDefined();
    delete environment.GARBAGE_INTERVAL_MS;
    await service.stop();
    await start();
  });
  test("stops cleanly when told to", async () => {
    expect(await service.stop()).toBe(0);
    await start();
  });
});
