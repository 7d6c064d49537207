// A real S3 server with one empty bucket, for tests.
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, startVersitygw } from "@pilotlight/servers";
import type { Credentials } from "../sigv4.ts";

export type S3TestServer = {
  credentials: Credentials;
  /** A store URI in the bucket. */
  uri(prefix?: string): string;
  stop(): Promise<void>;
};

/** The server may have to be built on first use: minutes, once a machine. */
export const S3_START_TIMEOUT_MS = 600_000;

const BUCKET = "test-bucket";

/** Starts versitygw over a temporary directory, on a free port, with a secret of its own. */
export async function startS3Server(): Promise<S3TestServer> {
  const folder = await mkdtemp(join(tmpdir(), "pilotlight-s3-"));
  const dataDir = join(folder, "data");
  await mkdir(join(dataDir, BUCKET), { recursive: true });
  const credentials = { accessKeyId: "test", secretAccessKey: randomBytes(16).toString("hex") };
  const server = await startVersitygw({
    dataDir,
    port: await freePort(),
    logFile: join(folder, "log"),
    accessKey: credentials.accessKeyId,
    secretKey: credentials.secretAccessKey,
  });
  return {
    credentials,
    uri: (prefix = "") => `s3://${BUCKET}/${prefix}?endpoint=${server.url}&region=us-east-1`,
    async stop() {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
