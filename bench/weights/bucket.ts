// The bucket of the benchmark: versitygw over shared memory, with generated models in it.
import { randomBytes } from "node:crypto";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { freePort, runCommand, startVersitygw } from "@pilotlight/servers";

const BUCKET = "models";
export const REGION = "us-east-1";

export type BenchBucket = {
  /** HOST:PORT of the server itself. */
  address: string;
  /** AWS_… settings for every side. */
  env: Record<string, string>;
  /** Makes a model, once; gives its weight files' names and bytes in all. */
  add(name: string, generated: string): Promise<BenchModel>;
  remove(name: string): Promise<void>;
  /** CPU seconds of the server so far. */
  pid: number;
  stop(): Promise<void>;
};

export type BenchModel = {
  name: string;
  /** The server's own folder of it. */
  folder: string;
  files: string[];
  /** Of the weight files. */
  bytes: number;
};

/** A store's URI of a model, read through `address` (the server's or a link's). */
export const modelUri = (address: string, model: string): string =>
  `s3://${BUCKET}/${model}?endpoint=http://${address}&region=${REGION}`;

/** The same for tools that take the endpoint apart. */
export const objectUri = (model: string, file: string): string => `s3://${BUCKET}/${model}/${file}`;

export async function startBucket(folder: string): Promise<BenchBucket> {
  const dataDir = join(folder, "bucket");
  await mkdir(join(dataDir, BUCKET), { recursive: true });
  const env = {
    AWS_ACCESS_KEY_ID: "bench",
    AWS_SECRET_ACCESS_KEY: randomBytes(16).toString("hex"),
    AWS_REGION: REGION,
    AWS_DEFAULT_REGION: REGION,
  };
  const port = await freePort();
  const server = await startVersitygw({
    dataDir,
    port,
    logFile: join(folder, "versitygw.log"),
    accessKey: env.AWS_ACCESS_KEY_ID,
    secretKey: env.AWS_SECRET_ACCESS_KEY,
  });
  return {
    address: `127.0.0.1:${port}`,
    env,
    pid: server.pid,
    add: (name, generated) => addGenerated(join(dataDir, BUCKET, name), name, generated),
    remove: (name) => rm(join(dataDir, BUCKET, name), { recursive: true, force: true }),
    stop: () => server.stop(),
  };
}

/**
 * Written into the server's folder, not through the server (which would take longer than everything that is measured), with
 * the ETags that the server keeps in extended attributes.
 */
async function addGenerated(folder: string, name: string, generated: string): Promise<BenchModel> {
  const to = openStore(`file://${folder}`);
  const { record } = await addModel({ from: generated, to });
  await to.close();
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await rm(join(folder, entry.name), { recursive: true, force: true });
  }
  await runCommand("python3", [
    "-c",
    `import os, sys, secrets
for name in os.listdir(sys.argv[1]):
    os.setxattr(os.path.join(sys.argv[1], name), "user.etag", f'"{secrets.token_hex(16)}"'.encode())`,
    folder,
  ]);
  const files = Object.entries(record.files).filter(([file]) => file.endsWith(".safetensors"));
  return {
    name,
    folder,
    files: files.map(([file]) => file),
    bytes: files.reduce((sum, [, { bytes }]) => sum + bytes, 0),
  };
}
