// Settings of the weight streamer.
import { BUS_FIELDS } from "@pilotlight/bus";
import { DEFAULT_PEER_REPEAT_INTERVAL_MS } from "@pilotlight/peers";
import { bytes, count, defineConfig, durationMs, flag, port, ratio, text } from "@pilotlight/service";
import { DEFAULT_CONNECT_TIMEOUT_MS, DEFAULT_FLIGHT_LIMITS as DEFAULTS } from "@pilotlight/weights";

const MIB = 1024 ** 2;

export const config = defineConfig("weight-streamer", {
  ...BUS_FIELDS,
  nodeId: text("local", "Name of this node, as its node agent says it."),
  grpcHost: text("127.0.0.1", "Address of the gRPC door; engines on this node ask there."),
  grpcPort: port(7463, "Port of the gRPC door."),
  peerHost: text(
    "",
    "Address at which other nodes of the zone read weights from this one; empty: none do, and it asks none.",
  ),
  peerPort: port(7464, "Port of the door for other nodes."),
  peerUrl: text(
    "",
    "URL that other nodes are told; empty: of peerHost, or where that is every address, of the machine's first.",
  ),
  peerToken: text("", "Secret that the streamers of a zone share; empty: the network keeps strangers out.", {
    secret: true,
  }),
  peerRepeatIntervalMs: durationMs(
    DEFAULT_PEER_REPEAT_INTERVAL_MS,
    "How often a node tells the others what it has; who is not heard five times in a row is gone. The same on all nodes.",
    { min: 100, max: 60_000 },
  ),
  peerWaitMs: durationMs(10_000, "How long another node may wait for a range that is on its way."),
  peerRequestTimeoutMs: durationMs(10_000, "Another node's request must have arrived whole within this.", {
    min: 100,
  }),
  zone: text("", "Nodes serve each other within a zone."),
  stateDir: text(
    "/var/lib/pilotlight/weight-streamer",
    "Folder for segments that do not fit into shared memory.",
  ),
  segmentDir: text(
    "",
    "Folder of shared memory for segments; empty: /dev/shm/pilotlight-<user id>-<node>. Best a tmpfs mounted with huge=within_size.",
  ),
  memoryBytesMax: bytes(4096 * MIB, "Weights held in shared memory at most."),
  spareBytes: bytes(
    0,
    "Shared memory made ready while the node is idle, for the next load: the size of the weights that usually come; 0: none.",
  ),
  spareDelayMs: durationMs(
    5_000,
    "How long after a load memory is made ready for the next one: until then the engine that got its weights has the processors.",
    { min: 0 },
  ),
  diskBytesMax: bytes(
    16_384 * MIB,
    "Weights held on disk at most, where shared memory is too small; 0 turns it off.",
  ),
  reserveBytes: bytes(512 * MIB, "Left free on each file system."),
  readerGroupId: count(10_001, "Group of the workers: it may map the segments. Used when running as root.", {
    max: 2 ** 31,
  }),
  chunkBytes: bytes(
    DEFAULTS.chunkBytes,
    "Bytes of one request to the source; of a large repository up to four times as many.",
    { min: MIB, max: 256 * MIB },
  ),
  requestsInitial: count(
    DEFAULTS.requestsInitial,
    "Requests in flight when a load begins; more while more bring more.",
    {
      min: 1,
      max: 256,
    },
  ),
  requestsMax: count(DEFAULTS.requestsMax, "Requests in flight per load at most.", { min: 1, max: 256 }),
  chunkDeadlineMs: durationMs(
    DEFAULTS.chunkDeadlineMs,
    "So many bytes as chunkBytes must arrive within this, larger ranges in proportion; then they are asked for again, and fewer at once.",
    { min: 100 },
  ),
  chunkAttemptsMax: count(DEFAULTS.chunkAttemptsMax, "Attempts for one range, the first included.", {
    min: 1,
    max: 20,
  }),
  retryDelayMs: durationMs(
    DEFAULTS.retryDelayMs,
    "Wait before a range is asked for again; twice as long before the third attempt, and so on.",
  ),
  progressIntervalMs: durationMs(
    DEFAULTS.progressIntervalMs,
    "Between two reports of a load's progress, to engines and as events.",
    { min: 50 },
  ),
  hedgeShareMax: ratio(
    DEFAULTS.hedgeShareMax,
    "Share of all requests at most that ask for a slow range a second time; 0: none do.",
    { min: 0, max: 1 },
  ),
  hedgeAfterMsMin: durationMs(
    DEFAULTS.hedgeAfterMsMin,
    "A range is never slow before this; after it, when it takes four times as long as the others.",
  ),
  connectTimeoutMs: durationMs(
    DEFAULT_CONNECT_TIMEOUT_MS,
    "How long each address of a source's server may take to accept a connection.",
    { min: 100, max: 600_000 },
  ),
  digestAfterMs: durationMs(
    60_000,
    "So long after a load the whole files' SHA-256 is compared with what is known of it: until then the engine has the processors.",
  ),
  digestBytesPerSecondMax: bytes(
    256 * MIB,
    "How fast files are read for it, a second; 0: their blocks' checksums are all that is compared.",
  ),
  strangersAllowed: flag(
    false,
    "Serve whoever asks, beside this node's replicas: people and tools, where the streamer runs without the platform. Replicas get their own weights only, either way.",
  ),
  orderWaitMs: durationMs(5_000, "How long a replica's order may arrive after its question."),
  hintAgeMsMax: durationMs(
    60_000,
    "An older hint that weights are wanted is ignored: whoever needed them has asked by now.",
  ),
  revalidateMs: durationMs(
    3_000,
    "How long a source may take to say whether held weights are still current.",
  ),
});
