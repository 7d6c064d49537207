// `pilotlight weights …` over real repositories: a folder, and a real S3 server.
import { mkdtemp, open, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { basename, join } from "node:path";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { S3_START_TIMEOUT_MS, type S3TestServer, startS3Server } from "@pilotlight/object-store/testing";
import { openSegmentFiles } from "@pilotlight/weights";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runCli } from "../cli.ts";

const MODEL =
  "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4&layers=5&shardMB=5";
let folder: string;
let s3: S3TestServer;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cli-weights-"));
  s3 = await startS3Server();
  const credentials = async () => s3.credentials;
  await addModel({ from: MODEL, to: openStore(`file://${folder}/model`) });
  await addModel({ from: MODEL, to: openStore(s3.uri("model"), { credentials }) });
  process.env.AWS_ACCESS_KEY_ID = s3.credentials.accessKeyId;
  process.env.AWS_SECRET_ACCESS_KEY = s3.credentials.secretAccessKey;
}, S3_START_TIMEOUT_MS);
afterAll(async () => {
  await s3.stop();
  await rm(folder, { recursive: true, force: true });
});

async function run(...args: string[]) {
  const out: string[] = [];
  const err: string[] = [];
  const code = await runCli(["weights", ...args], {
    env: {},
    cwd: folder,
    out: (line) => void out.push(`${line}\n`),
    write: (text) => void out.push(text),
    err: (line) => void err.push(`${line}\n`),
    draw: () => {},
    isLive: false,
    columns: 100,
    interrupted: new AbortController().signal,
    style: (_format, text) => text,
  });
  return { code, out: out.join(""), err: err.join("") };
}

async function damage(model: string): Promise<void> {
  const path = join(folder, model, "model-00002-of-00003.safetensors");
  const file = await open(path, "r+");
  await file.write(Buffer.from([0xff]), 0, 1, 1_000_000);
  await file.close();
}

describe("weights inspect", () => {
  test("tells of files, tensors and dtypes, for people and for machines", async () => {
    const people = await run("inspect", "./model");
    expect(people.code).toBe(0);
    expect(people.out).toMatch(/48 tensors/);
    expect(people.out).toMatch(/model-00001-of-00003\.safetensors\s.*recorded/);
    const machines = JSON.parse((await run("inspect", s3.uri("model"), "--json")).out);
    expect(machines).toMatchObject({ tensors: 48, dtypes: { BF16: { tensors: 48 } } });
  });
  test("what is not there is told as such", async () => {
    const { code, err } = await run("inspect", "./nowhere");
    expect(code).toBe(3);
    expect(err).toMatch(/no safetensors weights/);
  });
});

describe("weights load", () => {
  test("prints what a start would take, and leaves nothing behind", async () => {
    const { code, out } = await run("load", s3.uri("model"), "--json");
    expect(code).toBe(0);
    const result = JSON.parse(out);
    expect(result).toMatchObject({ tensors: 48, retries: 0 });
    expect(result.bytesFetched).toBe(result.bytes);
    for (const key of ["seconds", "gigabytesPerSecond", "peakRssBytes", "requests"])
      expect(result[key], key).toBeGreaterThan(0);
    const own = (await readdir("/dev/shm")).filter((name) => name.startsWith("pilotlight-load-"));
    expect(own).toEqual([]);
  });
});

test("shared memory of a load that was killed goes with the next load, that of a running one stays", async () => {
  const [killed, running] = await Promise.all(
    ["killed", "running"].map((name) => mkdtemp(`/dev/shm/pilotlight-load-${userInfo().uid}-${name}-`)),
  );
  const place = (directory = "") => ({
    memory: { directory, bytesMax: 2 ** 20 },
    disk: { directory: join(folder, basename(directory)), bytesMax: 0 },
    reserveBytes: 0,
  });
  openSegmentFiles(place(killed)).close();
  await writeFile(join(killed ?? "", "weights-1"), "left over");
  const segments = openSegmentFiles(place(running));
  expect((await run("load", "./model")).code).toBe(0);
  const left = (await readdir("/dev/shm")).filter((name) => name.startsWith("pilotlight-load-"));
  expect(left).toEqual([basename(running ?? "")]);
  segments.close();
  await rm(running ?? "", { recursive: true });
});

describe("weights verify", () => {
  test("right bytes are right; a flipped one is found, and ends badly", async () => {
    await addModel({ from: MODEL, to: openStore(`file://${folder}/damaged`) });
    expect((await run("verify", "./damaged")).out).toMatch(/right/);
    await damage("damaged");
    const { code, out } = await run("verify", "./damaged");
    expect(out).toMatch(/model-00002-of-00003\.safetensors\s.*wrong/);
    expect(code).toBe(5);
  });
});

describe("weights convert-shards", () => {
  test("cuts a repository into files of another size, the tensors the same", async () => {
    expect((await run("convert-shards", "./model", "--to", "./small", "--shard-mb", "2")).code).toBe(0);
    const small = JSON.parse((await run("inspect", "./small", "--json")).out);
    expect(small.tensors).toBe(48);
    expect(small.weights.length).toBeGreaterThan(5);
    expect((await run("verify", "./small")).out).not.toMatch(/wrong|unrecorded/);
    // Cut back into one file it is what it was cut from, tensor by tensor: the record's digests say so.
    await run("convert-shards", "./model", "--to", "./one-a", "--shard-mb", "5000");
    await run("convert-shards", "./small", "--to", "./one-b", "--shard-mb", "5000");
    const digest = async (name: string) =>
      JSON.parse((await run("verify", `./${name}`, "--json")).out).files.map(
        (file: { sha256: string }) => file.sha256,
      );
    expect(await digest("one-a")).toEqual(await digest("one-b"));
  });
  test("never in place", async () => {
    expect((await run("convert-shards", "./model", "--to", "./model")).code).toBe(2);
  });
});
