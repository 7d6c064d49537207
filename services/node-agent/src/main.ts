// The node agent: wires the image file system to the agent.
import { join } from "node:path";
import { imagefsRuntime } from "@pilotlight/compute";
import { openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { runService } from "@pilotlight/service";
import { startAgent } from "./agent.ts";
import { config } from "./config.ts";

await runService({
  config,
  logFields: ({ nodeId }) => ({ nodeId }),
  async start(context) {
    const { bucketUri, imageCacheDir, imageCacheBytesMax, stateDir, stopReplicasOnExit } = context.config;
    await startAgent(context, async (directory) => {
      const imagefs = openImagefs({
        cacheDir: imageCacheDir === "" ? join(stateDir, "image-cache") : imageCacheDir,
        cacheBytesMax: imageCacheBytesMax,
      });
      context.onStop("images", () => (stopReplicasOnExit ? imagefs.stop() : imagefs.close()));
      const method = context.config.imageMountMethod;
      const learnStarts = !bucketUri.startsWith("file:");
      return imagefsRuntime({ imagefs, bucket: openStore(bucketUri), directory, method, learnStarts });
    });
  },
});
