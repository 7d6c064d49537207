// Control: applications, versions and what is wanted.
import { BUS_MIGRATION, connectServiceBus, startServiceOutbox } from "@pilotlight/bus";
import { listen, runService } from "@pilotlight/service";
import { openServiceStore } from "@pilotlight/store";
import { readCallers } from "./adapters/callers.ts";
import { startHistorySweep } from "./adapters/history-sweep.ts";
import { createModelRecords } from "./adapters/model-records.ts";
import { connectPeers } from "./adapters/peers.ts";
import { config as schema } from "./config.ts";
import { createLiveView } from "./domain/live-view.ts";
import type { World } from "./domain/world.ts";
import { listenToEvents } from "./handlers/listen-to-events.ts";
import { applicationRoutes } from "./handlers/routes/applications.ts";
import { decisionRoutes } from "./handlers/routes/decisions.ts";
import { createApiDoor } from "./handlers/routes/door.ts";
import { modelRoutes } from "./handlers/routes/models.ts";
import { replicaRoutes } from "./handlers/routes/replicas.ts";
import { statusRoutes } from "./handlers/routes/status.ts";
import { streamRoutes } from "./handlers/routes/streams.ts";
import { sayPermissions } from "./operations/model-permission.ts";

await runService({
  config: schema,
  async start(context) {
    const { config } = context;
    const callers = await readCallers(config);
    const store = await openServiceStore(context, {
      schema: "control",
      leading: [BUS_MIGRATION],
      migrations: new URL("../migrations/", import.meta.url),
    });
    const bus = await connectServiceBus(context, "control");
    const outbox = startServiceOutbox(context, store, bus);
    const models = createModelRecords(config);
    const world: World = { store, outbox, live: createLiveView(config), models, now: Date.now };
    context.onStop("events", await listenToEvents(world, bus));
    await sayPermissions(world, config);
    context.onStop("history", startHistorySweep(store, config));

    const peers = connectPeers(config);
    context.onStop("peers", peers.close);
    const door = await createApiDoor({ requestTimeoutMs: config.requestTimeoutMs, callers });
    applicationRoutes(door, world, config);
    replicaRoutes(door, world);
    modelRoutes(door, world, config);
    statusRoutes(door, world, config, peers);
    decisionRoutes(door, peers);
    streamRoutes(door, bus, peers, config);
    door.get("/v1/openapi.json", { schema: { hide: true } }, () => door.swagger());
    const url = await listen(door, { name: "control", host: config.httpHost, port: config.httpPort });
    context.onStop("api", async () => {
      door.server.closeAllConnections(); // streams would stay open for ever
      await door.close();
    });
    context.log.info("serving the API", { url });
  },
});
