// A server that speaks Google Cloud Storage's API, with one empty bucket, for tests.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, startFakeGcs } from "@pilotlight/servers";

export type GoogleTestServer = {
  url: string;
  /** A store URI in the bucket. */
  uri(prefix?: string): string;
  stop(): Promise<void>;
};

const BUCKET = "test-bucket";

/** Starts fake-gcs-server on a free port. */
export async function startGoogleServer(): Promise<GoogleTestServer> {
  const folder = await mkdtemp(join(tmpdir(), "pilotlight-google-"));
  const { url, stop } = await startFakeGcs({ port: await freePort(), logFile: join(folder, "log") });
  const made = await fetch(`${url}/storage/v1/b`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: BUCKET }),
  });
  if (!made.ok) throw new Error(`the bucket was not made: ${made.status} ${await made.text()}`);
  return {
    url,
    uri: (prefix = "") => `gs://${BUCKET}/${prefix}?endpoint=${url}`,
    async stop() {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
