// Settings of the autoscaler.
import { BUS_FIELDS, OUTBOX_FIELDS } from "@pilotlight/bus";
import {
  type ConfigOf,
  choice,
  count,
  defineConfig,
  durationMs,
  port,
  ratio,
  text,
} from "@pilotlight/service";
import { STORE_FIELDS } from "@pilotlight/store";

export const config = defineConfig("autoscaler", {
  ...BUS_FIELDS,
  ...STORE_FIELDS,
  ...OUTBOX_FIELDS,
  grpcHost: text("127.0.0.1", "Address of the gRPC door."),
  grpcPort: port(7464, "Port of the gRPC door; 0 takes any free one."),
  leaderIntervalMs: durationMs(1_000, "How often a standby asks for the lead, and the leader checks it.", {
    min: 50,
  }),
  coalesceMs: durationMs(50, "Least time between two decisions about one deployment."),
  loadStaleAfterMs: durationMs(5_000, "A gateway's load sample older than this does not count."),
  loadForgetAfterMs: durationMs(15_000, "A gateway not heard of for this long is gone."),
  toleranceReplicas: ratio(0.1, "Part of a replica that the load must be beyond an edge, against flapping.", {
    max: 0.5,
  }),
  coldStartAssumedMs: durationMs(30_000, "The cold start assumed until one was measured."),
  startBackoffMs: durationMs(1_000, "Wait before a replica that failed twice in a row is replaced; doubles."),
  startBackoffMsMax: durationMs(60_000, "Longest such wait."),
  placementStrategy: choice(
    ["pack", "spread"],
    "pack",
    "`pack` fills nodes to leave others whole; `spread` keeps replicas of one deployment apart.",
  ),
  nodeSilentAfterMs: durationMs(5_000, "A node not heard of for this long gets no new replicas."),
  nodeLostAfterMs: durationMs(
    15_000,
    "A node not heard of for this long is lost, and its replicas with it.",
    {
      min: 100,
    },
  ),
  orderTimeoutMs: durationMs(
    60_000,
    "An order that its node neither reports nor holds after this long is given up.",
  ),
  recordUnchangedIntervalMs: durationMs(
    60_000,
    "Decisions that change nothing are recorded this often at most.",
  ),
  decisionsKeepMs: durationMs(7 * 24 * 3_600_000, "How long decision records are kept."),
  decisionsMax: count(200_000, "Decision records kept at most.", { min: 1 }),
});

export type Config = ConfigOf<typeof config.fields>;
