// Settings of the rollout coordinator.
import { BUS_FIELDS, OUTBOX_FIELDS } from "@pilotlight/bus";
import { defineConfig, durationMs, port, text } from "@pilotlight/service";
import { STORE_FIELDS } from "@pilotlight/store";

export const config = defineConfig("rollout", {
  ...BUS_FIELDS,
  ...STORE_FIELDS,
  ...OUTBOX_FIELDS,
  grpcHost: text("127.0.0.1", "Address of the gRPC door."),
  grpcPort: port(7465, "Port of the gRPC door; 0 takes any free one."),
  leaderIntervalMs: durationMs(1_000, "How often a standby asks for the lead, and the leader checks it.", {
    min: 50,
  }),
  coalesceMs: durationMs(50, "Least time between two steps of one rollout."),
  historyKeepMs: durationMs(30 * 24 * 3_600_000, "How long rollouts that are over are kept."),
});
