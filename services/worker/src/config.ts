// Settings of a worker. The node agent sets most of them for each replica.
import { BUS_FIELDS } from "@pilotlight/bus";
import { bytes, type ConfigOf, count, defineConfig, durationMs, port, text } from "@pilotlight/service";

export const config = defineConfig("worker", {
  ...BUS_FIELDS,
  assignmentFile: text(undefined, "File with the replica's assignment: protobuf JSON of ReplicaAssignment."),
  replicaToken: text(undefined, "Proves to the node agent that this is the process it started.", {
    secret: true,
  }),
  nodeAgentAddress: text("127.0.0.1:7467", "gRPC address of the node agent."),
  weightStreamerAddress: text("127.0.0.1:7463", "gRPC address of the weight streamer."),
  httpHost: text("127.0.0.1", "Address of the replica's OpenAI door."),
  advertisedHost: text(
    "",
    "Address that gateways are told; empty: the one it listens on, or where that is every address, the machine's first.",
  ),
  httpPort: port(0, "Port of the replica's OpenAI door; 0 takes any free one."),
  bodyBytesMax: bytes(64 * 1024 ** 2, "Largest request body.", { min: 1024 }),
  requestTimeoutMs: durationMs(60_000, "How long a gateway may take to send a request."),
  clientStallTimeoutMs: durationMs(
    150_000,
    "How long a reader may take nothing of its answer; then it is dropped.",
  ),
  reportIntervalMs: durationMs(5_000, "How often to report to the node agent when nothing changes.", {
    min: 100,
  }),
  reattachDelayMsMax: durationMs(
    2_000,
    "Longest pause before the next try to reach node agent or streamer.",
    {
      min: 10,
    },
  ),
  loadSampleBusyMs: durationMs(500, "Time between load samples with requests.", { min: 10 }),
  loadSampleIdleMs: durationMs(5_000, "Time between load samples without requests.", { min: 10 }),
  tensorsInFlightMax: count(32, "Tensors handed to the engine at the same time.", { min: 1, max: 1024 }),
});

export type WorkerConfig = ConfigOf<typeof config.fields>;
