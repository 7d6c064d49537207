// Azurite, Microsoft's emulator of Azure storage, for tests: installed once into the user's cache, its blob service started over
// a folder. The newest version whose dependencies every registry has.
import { access, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { cacheDir } from "./cache.ts";
import { runCommand, type ServerProcess, startServerProcess } from "./processes.ts";

const VERSION = "3.33.0";
const INSTALL_TIMEOUT_MS = 600_000;

/** Path of the blob service's program. */
async function ensureAzurite(): Promise<string> {
  const folder = cacheDir("tools", `azurite-${VERSION}`);
  const done = join(folder, ".complete");
  const exists = await access(done).then(
    () => true,
    () => false,
  );
  if (!exists) {
    try {
      await mkdir(folder, { recursive: true });
      const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
      await runCommand("npm", ["install", ...options, "--prefix", folder, `azurite@${VERSION}`], {
        timeoutMs: INSTALL_TIMEOUT_MS,
      });
      await mkdir(done);
    } catch (error) {
      throw new PlatformError("unavailable", `no Azurite: ${toPlatformError(error).message}`, {
        remedy: "Check that npm reaches its registry.",
        cause: error,
      });
    }
  }
  return join(folder, "node_modules/azurite/dist/src/blob/main.js");
}

export type AzuriteOptions = {
  dataDir: string;
  port: number;
  logFile: string;
  account: string;
  /** Base64. */
  key: string;
};
export type AzuriteServer = ServerProcess & { /** Of the account's blob service. */ endpoint: string };

/** Starts the blob service on loopback, for one account. */
export async function startAzurite(options: AzuriteOptions): Promise<AzuriteServer> {
  const program = await ensureAzurite();
  const { dataDir, port, account, key, logFile } = options;
  const endpoint = `http://127.0.0.1:${port}/${account}`;
  const server = await startServerProcess({
    name: "azurite",
    command: process.execPath,
    args: [
      ...[program, "--silent", "--location", dataDir],
      ...["--blobHost", "127.0.0.1", "--blobPort", String(port), "--skipApiVersionCheck"],
    ],
    env: { ...process.env, AZURITE_ACCOUNTS: `${account}:${key}` },
    logFile,
    isReady: async () => (await fetch(endpoint, { signal: AbortSignal.timeout(1_000) })).status > 0,
    readyTimeoutMs: 30_000,
    stopTimeoutMs: 5_000,
  });
  return { ...server, endpoint };
}
