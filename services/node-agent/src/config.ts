// Settings of the node agent.
import { BUS_FIELDS } from "@pilotlight/bus";
import {
  DEFAULT_CACHE_BYTES_MAX,
  DEFAULT_IMAGEFS_TIMES as IMAGEFS_TIMES,
  type ImagefsTimes,
} from "@pilotlight/imagefs";
import { REGISTRY_FIELDS } from "@pilotlight/oci/part";
import { DEFAULT_PEER_REPEAT_INTERVAL_MS } from "@pilotlight/peers";
import {
  bytes,
  choice,
  count,
  defineConfig,
  durationMs,
  flag,
  list,
  port,
  type ServiceConfig,
  text,
  uri,
} from "@pilotlight/service";
import {
  DEFAULT_SNAPSHOTTER_TIMES as SNAPSHOTTER_TIMES,
  type SnapshotterTimes,
} from "@pilotlight/snapshotter";

export const config = defineConfig("node-agent", {
  ...BUS_FIELDS,
  nodeId: text("local", "Name of this node, unique on the platform: letters, digits, '-' and '_'."),
  stateDir: text(undefined, "Folder for the agent's state, the replicas' folders and their logs."),
  grpcHost: text("127.0.0.1", "Address of the gRPC door; workers on this node use it."),
  grpcPort: port(7467, "Port of the gRPC door. Workers that outlive the agent come back to it, so keep it."),
  imageConverterAddress: text("127.0.0.1:7462", "Image converter, host:port."),
  weightStreamerAddress: text("127.0.0.1:7463", "Weight streamer of this node, host:port, for the workers."),
  bucketUri: uri(["file", "s3", "gs", "az"], undefined, "Bucket that holds the converted images."),
  imageCacheDir: text("", "Cache of image chunks on a local disk; empty: in stateDir."),
  imageCacheBytesMax: bytes(DEFAULT_CACHE_BYTES_MAX, "Bound of that cache; images in use are never evicted."),
  imageReadDeadlineMs: durationMs(
    IMAGEFS_TIMES.readDeadlineMs,
    "How long a program's read of an image waits for the bucket before it fails.",
    { min: 1_000 },
  ),
  imagefsStartTimeoutMs: durationMs(
    IMAGEFS_TIMES.startTimeoutMs,
    "Longest start of the processes that mount images; those before them may take long to die on a loaded machine.",
    { min: 100 },
  ),
  imagefsCallTimeoutMs: durationMs(
    IMAGEFS_TIMES.callTimeoutMs,
    "Longest answer of these processes, to mount or unmount an image for instance.",
    { min: 100 },
  ),
  imagefsStopTimeoutMs: durationMs(
    IMAGEFS_TIMES.stopTimeoutMs,
    "How long these processes may take to end before they are told again.",
    { min: 100 },
  ),
  imagefsProbeTimeoutMs: durationMs(
    IMAGEFS_TIMES.probeTimeoutMs,
    "Longest trial of what this machine can mount.",
    { min: 100 },
  ),
  imageSeedDirs: list(
    [],
    "Caches that `pilotlight image seed` filled, on read-only volumes too: whole images are mounted from there.",
  ),
  imageMountMethod: choice(
    ["auto", "fanotify", "fuse", "extract"],
    "auto",
    "How images are mounted; auto: the best way that works on this machine.",
  ),
  pullNewImages: flag(
    true,
    "Pull an image that is seen for the first time while the converter works; what comes first is used.",
  ),
  pullPatienceMs: durationMs(
    30_000,
    "Of several nodes that start such an image one pulls it; how long the others leave it to that one and the converter.",
  ),
  peerHost: text(
    "",
    "Address at which other nodes of the zone read images from this one; empty: none do, and it asks none.",
  ),
  peerPort: port(7468, "Port of the door for other nodes."),
  peerUrl: text(
    "",
    "URL that other nodes are told; empty: of peerHost, or where that is every address, of the machine's first.",
  ),
  peerToken: text("", "Secret that the agents of a zone share; empty: the network keeps strangers out.", {
    secret: true,
  }),
  peerUploadBytesPerSecond: bytes(
    128 * 1024 ** 2,
    "Bytes of images that other nodes get at most; 0: no limit.",
  ),
  peerRepeatIntervalMs: durationMs(
    DEFAULT_PEER_REPEAT_INTERVAL_MS,
    "How often a node tells the others what it has; who is not heard five times in a row is gone. The same on all nodes.",
    { min: 100, max: 60_000 },
  ),
  peerListenMs: durationMs(
    IMAGEFS_TIMES.peerListenMs,
    "How long a node that is about to pull an image listens for others that start it too; up to twice as long.",
    { max: 60_000 },
  ),
  peerObjectTimeoutMs: durationMs(
    IMAGEFS_TIMES.peerObjectTimeoutMs,
    "How long another node is asked for an image's index before the bucket is.",
    { max: 60_000 },
  ),
  zone: text("", "Nodes serve each other within a zone."),
  pulledKeepMs: durationMs(60_000, "How long a pulled image stays that nothing has mounted yet.", {
    min: 1_000,
  }),
  ...REGISTRY_FIELDS,
  containerdSocket: text(
    "",
    "Socket on which this node's containerd gets snapshots from the agent (docs/containerd.md); empty: it gets none.",
  ),
  containerdDir: text("", "Folder for those snapshots, on a local disk; empty: in stateDir."),
  containerdLookupTimeoutMs: durationMs(
    SNAPSHOTTER_TIMES.lookupTimeoutMs,
    "Longest look for a converted image when containerd pulls one; afterwards its layers are fetched.",
    { min: 100 },
  ),
  containerdMissingKeepMs: durationMs(
    SNAPSHOTTER_TIMES.missingKeepMs,
    "How long an image that is not converted is believed to be that: all layers of one pull are answered alike.",
  ),
  containerdMountTimeoutMs: durationMs(
    SNAPSHOTTER_TIMES.mountTimeoutMs,
    "Longest mount of a converted image for containerd; afterwards its layers are fetched.",
    { min: 1_000 },
  ),
  containerdPullTimeoutMs: durationMs(
    SNAPSHOTTER_TIMES.pullTimeoutMs,
    "How long an image stays mounted of which containerd has pulled a part only.",
    { min: 1_000 },
  ),
  containerdStartLengthMs: durationMs(
    SNAPSHOTTER_TIMES.startLengthMs,
    "What a container of containerd reads within this time is its start, and learnt for the next one.",
    { min: 1_000 },
  ),
  containerdKeepIntervalMs: durationMs(
    SNAPSHOTTER_TIMES.keepIntervalMs,
    "How often the converter hears which images containerd uses; well below its garbageGraceMs.",
    { min: 60_000 },
  ),
  converterAskIntervalMs: durationMs(
    SNAPSHOTTER_TIMES.askIntervalMs,
    "An image that containerd pulls is asked for at the converter at most this often.",
    { min: 1_000 },
  ),
  housekeepingIntervalMs: durationMs(
    SNAPSHOTTER_TIMES.housekeepingIntervalMs,
    "How often what nothing needs any more is removed.",
    {
      min: 1_000,
    },
  ),
  closeTimeoutMs: durationMs(
    SNAPSHOTTER_TIMES.closeTimeoutMs,
    "How long what is under way may take when the agent stops: its last report, log lines, calls of containerd.",
  ),
  workerImage: text("", "What `pilotlight://worker` stands for: an image reference, or oci:///directory."),
  workerHttpHost: text("127.0.0.1", "Address on which workers serve."),
  workerAdvertisedHost: text(
    "",
    "Address that gateways are told of workers; empty: workerHttpHost, or where that is every address, the machine's first.",
  ),
  segmentDirs: list(
    [],
    "Folders of the weight streamer's segments, which replicas see under the same paths; empty: its default in /dev/shm.",
  ),
  acceleratorKind: text(
    "",
    "Kind of this node's accelerators; empty: `nvidia` where its devices are, else `cpu`.",
  ),
  accelerators: count(
    0,
    "Accelerators of this node; 0: as many as there are devices, or 4 slots on a machine without any.",
    { max: 1_024 },
  ),
  memoryMib: count(0, "Memory for replicas in MiB; 0: what the machine has, less memoryReservedMib."),
  memoryReservedMib: count(1_024, "Memory that is kept for everything else when memoryMib is 0."),
  reportIntervalMs: durationMs(1_000, "How often the node reports.", { min: 100 }),
  startTimeoutMs: durationMs(600_000, "Longest start of a replica whose deployment does not say."),
  drainTimeoutMs: durationMs(30_000, "Longest drain of a replica whose deployment does not say."),
  drainGraceMs: durationMs(
    2_000,
    "What a worker may take to exit after its drain's deadline, before SIGTERM.",
  ),
  killTimeoutMs: durationMs(10_000, "What a worker may take to exit after SIGTERM, before SIGKILL."),
  retryDelayMs: durationMs(200, "First delay before a step of a start that may pass is tried again.", {
    min: 1,
  }),
  retryDelayMsMax: durationMs(5_000, "Longest such delay.", { min: 1 }),
  compileCacheTimeoutMs: durationMs(
    60_000,
    "How long a start waits for its version's compile cache before it goes on without.",
    { min: 1 },
  ),
  compileCacheSettleMs: durationMs(
    2_000,
    "A new compile cache is saved when nothing in it has changed for so long.",
    { min: 10 },
  ),
  compileCacheArchivesMax: count(
    2,
    "Saves of one compile cache that stay in the bucket, the latest included: a start may still read an earlier one.",
    { min: 1, max: 100 },
  ),
  goneKeepMs: durationMs(24 * 3_600_000, "How long a replica that is gone is remembered and shown."),
  stopReplicasOnExit: flag(
    false,
    "Drain and stop the replicas when the agent is told to stop; otherwise they go on without it.",
  ),
  exitDrainTimeoutMs: durationMs(5_000, "Longest drain when the agent stops its replicas on exit."),
  logGlobs: list(
    [],
    "Log files of services on this node to ship too; `*` stands for part of a name, `**` for folders.",
  ),
  logContainerTag: text(
    "pilotlight",
    "Of Docker's own log files (json-file) only containers with this tag, or one below it (`<tag>/gateway`), are shipped.",
  ),
  logPollIntervalMs: durationMs(150, "How often log files are looked at.", { min: 10, max: 60_000 }),
  logBatchBytesMax: bytes(256 * 1024, "Largest piece of a file that is shipped at once.", { min: 4_096 }),
  logLineBytesMax: bytes(32 * 1024, "Longer lines are split.", { min: 256 }),
  logBacklogBytesMax: bytes(
    1024 ** 3,
    "What a file may hold that is not shipped yet; beyond it the oldest lines are dropped, which is reported.",
  ),
  logKeepBytes: bytes(4 * 1024 ** 2, "How much of a shipped replica's log stays on disk.", { min: 4_096 }),
});

type Settings = ServiceConfig<(typeof config)["fields"]>;

/** What of the settings is for the processes that mount images. */
export const imagefsTimes = (settings: Settings): ImagefsTimes => ({
  readDeadlineMs: settings.imageReadDeadlineMs,
  startTimeoutMs: settings.imagefsStartTimeoutMs,
  callTimeoutMs: settings.imagefsCallTimeoutMs,
  stopTimeoutMs: settings.imagefsStopTimeoutMs,
  probeTimeoutMs: settings.imagefsProbeTimeoutMs,
  peerListenMs: settings.peerListenMs,
  peerObjectTimeoutMs: settings.peerObjectTimeoutMs,
});

/** What of the settings is for containerd's snapshots. */
export const snapshotterTimes = (settings: Settings): SnapshotterTimes => ({
  lookupTimeoutMs: settings.containerdLookupTimeoutMs,
  missingKeepMs: settings.containerdMissingKeepMs,
  mountTimeoutMs: settings.containerdMountTimeoutMs,
  pullTimeoutMs: settings.containerdPullTimeoutMs,
  startLengthMs: settings.containerdStartLengthMs,
  housekeepingIntervalMs: settings.housekeepingIntervalMs,
  keepIntervalMs: settings.containerdKeepIntervalMs,
  askIntervalMs: settings.converterAskIntervalMs,
  closeTimeoutMs: settings.closeTimeoutMs,
});
