// The node agent: wires the image file system to the agent.
import { join, resolve } from "node:path";
import { eitherRuntime, imagefsRuntime } from "@pilotlight/compute";
import { toPlatformError } from "@pilotlight/errors";
import { openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { registryOptionsOf } from "@pilotlight/oci/part";
import { runService } from "@pilotlight/service";
import { startSnapshotter } from "@pilotlight/snapshotter";
import { shareImages } from "./adapters/image-peers.ts";
import { pullInTurn } from "./adapters/pull-in-turn.ts";
import { pulledImages } from "./adapters/pulled-images.ts";
import { startAgent } from "./agent.ts";
import { config, imagefsTimes, snapshotterTimes } from "./config.ts";

await runService({
  config,
  logFields: ({ nodeId }) => ({ nodeId }),
  async start(context) {
    const { containerdSocket, containerdDir } = context.config;
    const { bucketUri, imageCacheDir, imageCacheBytesMax, imageSeedDirs, stateDir, stopReplicasOnExit } =
      context.config;
    const times = imagefsTimes(context.config);
    await startAgent(context, async (directory) => {
      const imagefs = openImagefs({
        cacheDir: resolve(imageCacheDir === "" ? join(stateDir, "image-cache") : imageCacheDir),
        cacheBytesMax: imageCacheBytesMax,
        times,
        seedDirs: imageSeedDirs,
      });
      // What containerd runs stands on the same mounts: they stay.
      const stopsMounts = stopReplicasOnExit && containerdSocket === "";
      context.onStop("images", () => (stopsMounts ? imagefs.stop() : imagefs.close()));
      const { imageMountMethod: method, pulledKeepMs } = context.config;
      const learnStarts = !bucketUri.startsWith("file:");
      // The first start does not wait for them; a platform on one machine spares their memory until then.
      if (learnStarts)
        void imagefs.ready().catch((error: unknown) => {
          context.log.warn("the mounting processes do not start", { error: toPlatformError(error) });
        });
      const bucket = openStore(bucketUri);
      const converted = imagefsRuntime({ imagefs, bucket, directory, method, learnStarts });
      const registry = registryOptionsOf(context.config);
      const pulled = pulledImages(join(stateDir, "pulled"), {
        method,
        registry,
        keepMs: pulledKeepMs,
        times,
      });
      context.onStop("pulled images", () => pulled.close(stopReplicasOnExit));
      if (containerdSocket !== "") {
        const stop = await startSnapshotter({
          socket: resolve(containerdSocket),
          directory: resolve(containerdDir === "" ? join(stateDir, "containerd") : containerdDir),
          bucket,
          imagefs,
          method,
          registry,
          imageConverterAddress: context.config.imageConverterAddress,
          learnStarts,
          times: snapshotterTimes(context.config),
        });
        context.onStop("containerd's snapshots", stop);
      }
      return {
        bucket,
        // What was pulled before the setting changed is still served.
        runtime: eitherRuntime(converted, pulled.runtime),
        pull: context.config.pullNewImages
          ? pullInTurn(
              (digest, signal) => imagefs.takeTurn(digest, signal),
              pulled.pull,
              context.config.pullPatienceMs,
            )
          : undefined,
        share: (bus) => shareImages(imagefs, bus, context),
        tidy: pulled.clear,
      };
    });
  },
});
