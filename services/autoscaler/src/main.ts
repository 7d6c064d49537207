// Autoscaler: how many replicas of which version, on which node, and when.
import { BUS_MIGRATION, connectServiceBus, startServiceOutbox, watchSamples } from "@pilotlight/bus";
import { AutoscalerService, EVENTS } from "@pilotlight/contracts";
import { grpcService, runService, serveGrpc } from "@pilotlight/service";
import { openServiceStore, whileLeader } from "@pilotlight/store";
import { config as schema } from "./config.ts";
import { createNodes } from "./domain/nodes.ts";
import { listDecisions } from "./handlers/list-decisions.ts";
import { listNodes } from "./handlers/list-nodes.ts";
import { replayDecision } from "./handlers/replay-decision.ts";
import { lead } from "./operations/lead.ts";
import { sweepDecisions } from "./store/decisions.ts";

const DOOR_CLOSE_MS = 1_000;
const HISTORY_SWEEP_MS = 600_000;

await runService({
  config: schema,
  async start(context) {
    const { config } = context;
    const store = await openServiceStore(context, {
      schema: "autoscaler",
      leading: [BUS_MIGRATION],
      migrations: new URL("../migrations/", import.meta.url),
    });
    const bus = await connectServiceBus(context, "autoscaler");
    const outbox = startServiceOutbox(context, store, bus);
    const nodes = createNodes();
    const reports = watchSamples(bus, EVENTS.nodeReported, {}, (report) => nodes.note(report, Date.now()));
    context.onStop("node reports", reports.close);

    const stopLeading = new AbortController();
    const leading = whileLeader(
      store,
      { name: "autoscaler", intervalMs: config.leaderIntervalMs, signal: stopLeading.signal },
      (signal) => lead({ store, bus, outbox, nodes, config }, signal),
    );
    context.onStop("leadership", () => {
      stopLeading.abort();
      return leading;
    });

    const sweep = setInterval(() => {
      sweepDecisions(store.sql, new Date(Date.now() - config.decisionsKeepMs), config.decisionsMax).catch(
        (error) => context.log.warn("history sweep failed; will try again", { error }),
      );
    }, HISTORY_SWEEP_MS);
    context.onStop("history", () => clearInterval(sweep));

    const door = await serveGrpc(`${config.grpcHost}:${config.grpcPort}`, [
      grpcService(AutoscalerService, {
        listDecisions: listDecisions(store),
        replayDecision: replayDecision(store),
        listNodes: listNodes(nodes),
      }),
    ]);
    context.onStop("gRPC", () => door.close(DOOR_CLOSE_MS));
    context.log.info("serving gRPC", { address: door.address });
  },
});
