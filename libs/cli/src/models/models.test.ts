// `pilotlight model add …` into folders that stand for buckets.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli } from "../cli.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cli-models-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function run(...args: string[]) {
  const out: string[] = [];
  const err: string[] = [];
  const code = await runCli(args, {
    env: {},
    cwd: folder,
    out: (line) => void out.push(line),
    write: (text) => void out.push(text),
    err: (line) => void err.push(line),
    draw: () => {},
    isLive: false,
    columns: 100,
    interrupted: new AbortController().signal,
    style: (_format, text) => text,
  });
  return { code, out: out.join("\n"), err: err.join("\n") };
}

test("a model goes into the bucket under its name, and is listed there with where it came from", async () => {
  const bucket = `file://${folder}/bucket`;
  const added = await run("model", "add", "generated://llama/tiny", "--bucket", bucket, "--name", "a");
  expect(added).toMatchObject({ code: 0, out: expect.stringContaining("bucket://models/a was added") });
  const list = JSON.parse((await run("model", "list", "--bucket", bucket, "--json")).out);
  expect(list).toMatchObject([
    {
      source: "bucket://models/a",
      name: "a",
      recipe: expect.any(String),
      licence: "CC0-1.0",
      approval: null,
    },
  ]);
});

test("--to names the very place, and the mirror carries every file's digest", async () => {
  const to = `file://${folder}/elsewhere/mine`;
  const { code, out } = await run("model", "add", "generated://llama/tiny", "--to", to, "--json");
  expect(code).toBe(0);
  expect(JSON.parse(out)).toMatchObject({
    uri: to,
    record: { name: "mine" },
  });
  const copy = `file://${folder}/copy`;
  expect((await run("model", "add", to, "--to", copy)).code).toBe(0);
  const verified = JSON.parse((await run("weights", "verify", copy, "--json")).out);
  expect(verified.files.map(({ verdict }: { verdict: string }) => verdict)).toEqual(["right"]);
});

test("a model is quantised while it is added, under a name of its own, and says what that cost", async () => {
  const bucket = `file://${folder}/quantised`;
  const model = "generated://llama/tiny?hidden=64&intermediate=128&heads=4&keyValueHeads=2&headSize=16";
  await run("model", "add", model, "--to", `file://${folder}/plain-64`);
  const how = ["--quantize", "int4", "--group-size", "32"];
  const added = await run("model", "add", `${folder}/plain-64`, "--bucket", bucket, ...how);
  expect(added).toMatchObject({
    code: 0,
    out: expect.stringContaining("bucket://models/plain-64-int4 was added"),
  });
  expect(added.out).toContain("quantising changed the weights by");
  expect(added.out).toMatch(/perplexity [\d.]+ before, [\d.]+ after/);
  const inspected = JSON.parse(
    (await run("weights", "inspect", `${bucket}/models/plain-64-int4`, "--json")).out,
  );
  expect(inspected.dtypes).toMatchObject({ I32: { tensors: expect.any(Number) } });
});

test.each([
  [["--quantize", "int2"], "int2"],
  [["--group-size", "32"], "--group-size belongs to"],
  [["--ranks", "0"], "--ranks"],
])("%j is refused", async (how, message) => {
  const { code, err } = await run("model", "add", "generated://llama/tiny", "--bucket", "file:///x", ...how);
  expect(code).toBe(2);
  expect(err).toContain(message);
});

test("two places are one too many", async () => {
  const { code, err } = await run("model", "add", "x", "--to", "file:///a", "--bucket", "file:///b");
  expect(code).toBe(2);
  expect(err).toContain("--to and --bucket");
});
