// Settings of control.
import { BUS_FIELDS, OUTBOX_FIELDS } from "@pilotlight/bus";
import { type ConfigOf, count, defineConfig, durationMs, flag, port, text, uri } from "@pilotlight/service";
import { STORE_FIELDS } from "@pilotlight/store";

export const config = defineConfig("control", {
  ...BUS_FIELDS,
  ...STORE_FIELDS,
  ...OUTBOX_FIELDS,
  httpHost: text("127.0.0.1", "Address of the API. Beyond loopback apiTokenFile is required."),
  httpPort: port(7401, "Port of the API; 0 takes any free one."),
  apiTokenFile: text(
    "",
    "File with the bearer tokens that callers must present, one a line, each with the caller's name before it (`alice SECRET`) or alone; empty: none is asked for.",
  ),
  allowOpenAccess: flag(
    false,
    "Allow to listen beyond loopback without a token: where a network of its own keeps strangers out.",
  ),
  requestTimeoutMs: durationMs(30_000, "How long a caller may take to send its request.", { min: 100 }),
  bucketUri: uri(
    ["file", "s3"],
    undefined,
    "The platform's bucket; `bucket://x` in application files means `<bucketUri>/x`.",
  ),
  modelsApprovedOnly: flag(
    false,
    "Deploy only models that somebody approved (`pilotlight model approve`), as they were when that was done; one whose approval is taken back is given to no new replica.",
  ),
  bucketTimeoutMs: durationMs(3_000, "Longest wait for a model's record in a bucket.", { min: 50 }),
  workerImage: text(
    "",
    "What `pilotlight://worker` stands for, to convert it ahead; empty: it is converted when the first node needs it.",
  ),
  imagePlatform: text("linux/amd64", "Platform for which images are converted ahead."),
  imageConverterAddress: text("127.0.0.1:7462", "gRPC address of the image converter."),
  autoscalerAddress: text("127.0.0.1:7464", "gRPC address of the autoscaler."),
  rolloutAddress: text("127.0.0.1:7465", "gRPC address of the rollout coordinator."),
  logsAddress: text("127.0.0.1:7466", "gRPC address of the log service."),
  peerTimeoutMs: durationMs(2_000, "Longest wait for an answer of another service.", { min: 50 }),
  streamsMax: count(64, "Log and event streams that are served at the same time.", { min: 1, max: 10_000 }),
  historyKeepMs: durationMs(7 * 24 * 3_600_000, "How long gone replicas and past rollouts are shown."),
  historySweepIntervalMs: durationMs(3_600_000, "How often old history is deleted.", { min: 100 }),
  nodeSilentAfterMs: durationMs(10_000, "A node not heard of for this long is shown as silent."),
});

export type Config = ConfigOf<typeof config.fields>;
