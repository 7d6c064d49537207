// A real blob service with one empty container, for tests.
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, startAzurite } from "@pilotlight/servers";
import { accountSas } from "../azure-credentials.ts";

export type AzureTestServer = {
  /** What the environment of a client says. */
  env: Record<string, string>;
  endpoint: string;
  /** A store URI in the container. */
  uri(prefix?: string): string;
  stop(): Promise<void>;
};

const ACCOUNT = "testaccount";
const CONTAINER = "test-container";

/** Starts Azurite over a temporary directory, on a free port, with a key of its own. */
export async function startAzureServer(): Promise<AzureTestServer> {
  const folder = await mkdtemp(join(tmpdir(), "pilotlight-azure-"));
  const key = randomBytes(64).toString("base64");
  const { endpoint, stop } = await startAzurite({
    dataDir: join(folder, "data"),
    port: await freePort(),
    logFile: join(folder, "log"),
    account: ACCOUNT,
    key,
  });
  const now = Date.now();
  const sas = accountSas({ account: ACCOUNT, key, from: now - 60_000, to: now + 60_000, secureOnly: false });
  const made = await fetch(`${endpoint}/${CONTAINER}?restype=container&${sas}`, { method: "PUT" });
  if (made.status !== 201) throw new Error(`the container was not made: ${made.status} ${await made.text()}`);
  return {
    env: { AZURE_STORAGE_ACCOUNT: ACCOUNT, AZURE_STORAGE_KEY: key },
    endpoint,
    uri: (prefix = "") => `az://${CONTAINER}/${prefix}?endpoint=${endpoint}`,
    async stop() {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
