// The catalogue of models and who approved them, through control's HTTP door, on a bucket that is a folder.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectBus, watchDocuments } from "@pilotlight/bus";
import { EVENTS, type ModelPermissionSet } from "@pilotlight/contracts";
import { type ControlClient, controlClient } from "@pilotlight/control-api";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { freePort } from "@pilotlight/servers";
import {
  type ServiceProcess,
  startServiceProcess,
  startTestNats,
  startTestPostgres,
  type TestPostgres,
  type TestServer,
} from "@pilotlight/testing";
import { afterAll, beforeAll, expect, test } from "vitest";

let folder: string;
let nats: TestServer;
let postgres: TestPostgres;
let port: number;
let database: string;
let service: ServiceProcess;
let alice: ControlClient;
let bob: ControlClient;

const add = async (name: string, seed = 1) =>
  addModel({
    from: `generated://llama/tiny?seed=${seed}`,
    to: openStore(`file://${folder}/bucket/models/${name}`),
    name,
  });
const file = (application: string, model: string) => `
application: ${application}
deployments:
  - name: main
    image: pilotlight://worker
    model: { source: "bucket://models/${model}", name: ${application}, task: chat }
    engine: { kind: embedded }
`;

async function start(settings: Record<string, string> = {}): Promise<void> {
  service = await startServiceProcess(new URL("./main.ts", import.meta.url), {
    NATS_URL: nats.url,
    POSTGRES_URL: database,
    HTTP_PORT: String(port),
    BUCKET_URI: `file://${folder}/bucket`,
    API_TOKEN_FILE: join(folder, "tokens"),
    MODELS_APPROVED_ONLY: "true",
    ...settings,
  });
  await service.logged((line) => line.msg === "serving the API");
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "control-models-"));
  [nats, postgres] = await Promise.all([startTestNats(), startTestPostgres()]);
  [port, database] = [await freePort(), await postgres.database()];
  await writeFile(join(folder, "tokens"), "# who may call\nalice alices-secret\nbob   bobs-secret\n");
  await start();
  const client = (token: string) =>
    controlClient({ url: `http://127.0.0.1:${port}`, token, timeoutMs: 10_000 });
  [alice, bob] = [client("alices-secret"), client("bobs-secret")];
});
afterAll(async () => {
  await service.stop();
  await nats.stop();
  await postgres.stop();
  await rm(folder, { recursive: true });
});

test("a model is deployed only after somebody approved it, and who that was is kept", async () => {
  await add("one");
  expect(await bob.models()).toMatchObject([
    { source: "bucket://models/one", name: "one", licence: "CC0-1.0", quantisation: null, approval: null },
  ]);
  await expect(bob.deploy(file("first", "one"), { dryRun: false })).rejects.toMatchObject({
    code: "preconditionFailed",
    message: expect.stringContaining("nobody has approved"),
    remedy: expect.stringContaining("pilotlight model approve bucket://models/one"),
  });
  await alice.approveModel("bucket://models/one", "terms checked");
  expect((await bob.model("bucket://models/one")).approval).toMatchObject({
    by: "alice",
    authenticated: true,
    note: "terms checked",
    current: true,
  });
  expect(await bob.deploy(file("first", "one"), { dryRun: false })).toMatchObject({ outcome: "created" });
});

test("what changes after it was approved is not what was approved", async () => {
  await add("changing");
  await alice.approveModel("bucket://models/changing", "");
  await add("changing", 2);
  expect((await bob.model("bucket://models/changing")).approval).toMatchObject({
    by: "alice",
    current: false,
  });
  await expect(bob.deploy(file("second", "changing"), { dryRun: true })).rejects.toThrow(/has changed since/);
  await bob.approveModel("bucket://models/changing", "");
  expect(await bob.deploy(file("second", "changing"), { dryRun: true })).toMatchObject({
    outcome: "created",
  });
});

test("an approval that was taken back stops deployments and returns to it, not what runs", async () => {
  await add("revoked");
  await alice.approveModel("bucket://models/revoked", "");
  await bob.deploy(file("third", "revoked"), { dryRun: false });
  await alice.revokeModel("bucket://models/revoked");
  await expect(alice.revokeModel("bucket://models/revoked")).rejects.toMatchObject({ code: "notFound" });
  const again = `${file("third", "revoked")}    environment: { A: "1" }\n`;
  await expect(bob.deploy(again, { dryRun: false })).rejects.toThrow(/nobody has approved/);
  expect(await bob.application("third")).toMatchObject({ wantedVersion: 1 });
  await add("other", 3);
  await alice.approveModel("bucket://models/other", "");
  await bob.deploy(file("third", "other"), { dryRun: false });
  await expect(bob.rollback("third", 1)).rejects.toThrow(/nobody has approved/);
});

test("nodes are told which model may not be loaded any more, in their words, and when it may again", async () => {
  await add("recalled");
  await alice.approveModel("bucket://models/recalled", "");
  const bus = await connectBus({
    url: nats.url,
    service: "node",
    connectTimeoutMs: 5_000,
    streamReplicas: 1,
  });
  const told: ModelPermissionSet[] = [];
  const source = `file://${folder}/bucket/models/recalled`;
  const watch = await watchDocuments(bus, EVENTS.modelPermissionSet, {}, (message) => {
    if (message.source === source) told.push(message);
  });
  const last = () => told.at(-1);
  await bob.revokeModel("bucket://models/recalled");
  await expect.poll(last).toMatchObject({ source, withdrawn: true, withdrawnBy: "bob" });
  // Whether approval is asked for is a setting, which may change between two lives of the service.
  await service.stop();
  await start({ MODELS_APPROVED_ONLY: "false" });
  await expect.poll(last).toMatchObject({ withdrawn: false });
  await service.stop();
  await start();
  await expect.poll(last).toMatchObject({ withdrawn: true });
  await alice.approveModel("bucket://models/recalled", "looked at again");
  await expect.poll(last).toMatchObject({ withdrawn: false });
  await watch.close();
  await bus.close();
});

test("weights that the embedded engine cannot run are refused before anything starts", async () => {
  const { record } = await add("quantised");
  const changed = { ...record, quantisation: { scheme: "int4", groupSize: 128, format: "pack-quantized" } };
  await openStore(`file://${folder}/bucket/models/quantised`).put("pilotlight.json", JSON.stringify(changed));
  await alice.approveModel("bucket://models/quantised", "");
  await expect(bob.deploy(file("fourth", "quantised"), { dryRun: true })).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringContaining("int4-g128"),
  });
});

test("weights that are cut for ranks are taken by an engine with as many, and by no other", async () => {
  const { record } = await add("cut");
  await openStore(`file://${folder}/bucket/models/cut`).put(
    "pilotlight.json",
    JSON.stringify({ ...record, ranks: 2 }),
  );
  await alice.approveModel("bucket://models/cut", "");
  const deploy = (engine: string) =>
    bob.deploy(file("fifth", "cut").replace("{ kind: embedded }", engine), { dryRun: true });
  for (const engine of ["{ kind: embedded }", "{ kind: embedded, tensorParallel: 4 }"]) {
    await expect(deploy(engine)).rejects.toMatchObject({
      code: "unsupported",
      field: "deployments.engine.tensorParallel",
      message: expect.stringContaining("cut for 2 ranks"),
      remedy: expect.stringContaining("tensorParallel: 2"),
    });
  }
  await expect(deploy("{ kind: embedded, tensorParallel: 2 }")).resolves.toBeDefined();
});

test("what was never added cannot be approved, and nobody approves without a token", async () => {
  await expect(alice.approveModel("bucket://models/none", "")).rejects.toMatchObject({ code: "notFound" });
  await expect(alice.approveModel("none", "")).rejects.toMatchObject({ code: "invalidArgument" });
  const stranger = controlClient({ url: `http://127.0.0.1:${port}`, token: "guess", timeoutMs: 5_000 });
  await expect(stranger.approveModel("bucket://models/one", "")).rejects.toMatchObject({
    code: "unauthenticated",
  });
});
