// Rollout: moves traffic and capacity from one version to the next.
import { BUS_MIGRATION, connectServiceBus, startServiceOutbox } from "@pilotlight/bus";
import { RolloutService } from "@pilotlight/contracts";
import { grpcService, runService, serveGrpc } from "@pilotlight/service";
import { openServiceStore, whileLeader } from "@pilotlight/store";
import { config as schema } from "./config.ts";
import { listRollouts } from "./handlers/list-rollouts.ts";
import { lead } from "./operations/lead.ts";
import { deleteEndedBefore } from "./store/rollouts.ts";

const DOOR_CLOSE_MS = 1_000;
const HISTORY_SWEEP_MS = 3_600_000;

await runService({
  config: schema,
  async start(context) {
    const { config } = context;
    const store = await openServiceStore(context, {
      schema: "rollout",
      leading: [BUS_MIGRATION],
      migrations: new URL("../migrations/", import.meta.url),
    });
    const bus = await connectServiceBus(context, "rollout");
    const outbox = startServiceOutbox(context, store, bus);

    const stopLeading = new AbortController();
    const leading = whileLeader(
      store,
      { name: "rollout", intervalMs: config.leaderIntervalMs, signal: stopLeading.signal },
      (signal) => lead({ store, bus, outbox, coalesceMs: config.coalesceMs }, signal),
    );
    context.onStop("leadership", () => {
      stopLeading.abort();
      return leading;
    });

    const sweep = setInterval(() => {
      deleteEndedBefore(store.sql, new Date(Date.now() - config.historyKeepMs)).catch((error) =>
        context.log.warn("history sweep failed; will try again", { error }),
      );
    }, HISTORY_SWEEP_MS);
    context.onStop("history", () => clearInterval(sweep));

    const door = await serveGrpc(`${config.grpcHost}:${config.grpcPort}`, [
      grpcService(RolloutService, { listRollouts: listRollouts(store) }),
    ]);
    context.onStop("gRPC", () => door.close(DOOR_CLOSE_MS));
    context.log.info("serving gRPC", { address: door.address });
  },
});
