// A platform of its own for a test: free ports, a folder that goes away, the models of the demo from the user's cache.
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDemo, type Demo, ensureWorkerImage, type Platform, startPlatform } from "@pilotlight/local";
import { cacheDir } from "@pilotlight/servers";

export type TestPlatform = {
  platform: Platform;
  demo: Demo;
  seen: string[];
  restarts: string[];
  stop(): Promise<void>;
};

/** Starts it with the models in its bucket, in a folder of its own below `home`. */
export async function startTestPlatform(
  bucket: "directory" | "s3",
  home: string = tmpdir(),
): Promise<TestPlatform> {
  const stateDir = await mkdtemp(join(home, "pilotlight-e2e-"));
  await chmod(stateDir, 0o755); // PostgreSQL and workers run under accounts of their own
  const { reference } = await ensureWorkerImage(cacheDir("images"));
  const restarts: string[] = [];
  const platform = await startPlatform({
    stateDir,
    usualPorts: false,
    bucket: { kind: bucket },
    from: "bundle",
    workerImage: reference,
    accelerators: 4,
    logLevel: "info",
    onEvent: ({ kind, name, detail }) => {
      if (kind === "restarting") restarts.push(`${name}: ${detail}`);
    },
  });
  const seen: string[] = [];
  const demo = createDemo(platform.endpoints, platform.bucket.environment, (line) => void seen.push(line));
  await demo.addModels();
  return {
    platform,
    demo,
    seen,
    restarts,
    async stop() {
      await platform.stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}
