// The agent as a process for tests: the real one, on images that are plain directories.
import { directoryRuntime } from "@pilotlight/compute/testing";
import { openStore } from "@pilotlight/object-store";
import { runService } from "@pilotlight/service";
import { startAgent } from "../agent.ts";
import { config } from "../config.ts";

await runService({
  config,
  start: (context) =>
    startAgent(context, async (directory) => ({
      runtime: directoryRuntime(directory),
      bucket: openStore(context.config.bucketUri),
    })),
});
