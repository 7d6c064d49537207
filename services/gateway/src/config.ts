// Settings of the gateway.
import { BUS_FIELDS } from "@pilotlight/bus";
import { bytes, type ConfigOf, count, defineConfig, durationMs, flag, port, text } from "@pilotlight/service";

const HOUR_MS = 3_600_000;

export const config = defineConfig("gateway", {
  ...BUS_FIELDS,
  httpHost: text("127.0.0.1", "Address of the OpenAI-compatible door."),
  httpPort: port(7400, "Port of the OpenAI-compatible door."),
  gatewayId: text("", "Name of this gateway in load samples; empty: made from the host's name and the port."),
  stateDir: text(undefined, "Folder for the last known routes, so that a restart routes without NATS."),
  apiKeysFile: text("", "File with one 'name sha256-hex' a line; empty: no keys are asked for."),
  allowOpenAccess: flag(false, "Allow to listen beyond loopback without API keys."),
  bodyBytesMax: bytes(16 * 1024 ** 2, "Largest request body.", { min: 1024 }),
  requestTimeoutMs: durationMs(60_000, "How long a client may take to send its request."),
  queueLengthMax: count(512, "Requests that may wait for a deployment that sets no limit of its own."),
  queueTimeoutMs: durationMs(
    120_000,
    "How long a request may wait for a deployment that sets no limit of its own.",
  ),
  continuationsMax: count(16_384, "Broken streams that may wait for another replica, per deployment."),
  continuationTimeoutMs: durationMs(60_000, "How long a broken stream may wait for another replica."),
  continuationTokensMax: count(65_536, "Tokens remembered of one stream; a longer one cannot be continued."),
  attemptsMax: count(4, "Replicas tried in a row without progress before a request fails.", {
    min: 1,
    max: 64,
  }),
  connectTimeoutMs: durationMs(2_000, "How long a connection to a replica may take to open.", { min: 10 }),
  answerTimeoutMs: durationMs(
    15 * 60_000,
    "How long a replica may take for an answer that is not streamed.",
    {
      max: 24 * HOUR_MS,
    },
  ),
  firstTokenTimeoutMs: durationMs(120_000, "How long a replica may take until the first token of a stream.", {
    max: 24 * HOUR_MS,
  }),
  streamIdleTimeoutMs: durationMs(
    20_000,
    "How long a replica may be silent in a stream; then another continues.",
  ),
  clientStallTimeoutMs: durationMs(
    120_000,
    "How long a client may take nothing of its answer; then it is dropped.",
  ),
  answerBufferBytesMax: bytes(
    1024 ** 2,
    "Answers that are not streamed are held back up to this size until they are whole, so that another replica can be tried.",
  ),
  inFlightPerReplicaMax: count(1_024, "Requests at once at a replica that names no limit of its own.", {
    min: 1,
  }),
  ejectMsMin: durationMs(500, "How long a replica that does not answer is left alone at first; doubles."),
  ejectMsMax: durationMs(10_000, "How long a replica that does not answer is left alone at most."),
  loadSampleBusyMs: durationMs(250, "Time between load samples of a deployment with requests.", { min: 10 }),
  loadSampleIdleMs: durationMs(2_000, "Time between load samples of a deployment without requests.", {
    min: 10,
  }),
  requestFactsPerSecondMax: count(2_000, "Finished requests told on the bus each second; more are not told."),
});

export type GatewayConfig = ConfigOf<typeof config.fields>;
