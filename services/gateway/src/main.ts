// The gateway's process.
import { runService } from "@pilotlight/service";
import { config } from "./config.ts";
import { startGateway } from "./gateway.ts";

await runService({
  config,
  async start(context) {
    await startGateway(context);
  },
});
