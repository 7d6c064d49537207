// What is only true now and needs no memory beyond the process: nodes, traffic, progress. Bounded (I10).
import {
  type ImageProgressed,
  type NodeReported,
  type TrafficSet,
  timestampMs,
  type WeightsProgressed,
} from "@pilotlight/contracts";
import type { ApplicationSummary, ImageView, NodeView, WeightsView } from "@pilotlight/control-api";

type Progress = NonNullable<ImageView["progress"]>;
type SeenNode = { report: NodeReported; seenAt: number; lost: boolean };

const NODES_MAX = 10_000;
const PROGRESS_MAX = 256;
/** Progress older than this is over, whatever it said last. */
const PROGRESS_FRESH_MS = 10_000;

export type LiveView = ReturnType<typeof createLiveView>;

/** An empty view. `now` is a parameter of everything that depends on time. */
export function createLiveView(options: { nodeSilentAfterMs: number }) {
  const nodes = new Map<string, SeenNode>();
  const traffic = new Map<string, TrafficSet>();
  const images = new Map<string, Progress & { at: number }>();
  const weights = new Map<string, WeightsView>();

  return {
    noteNode(report: NodeReported, now: number): void {
      remember(
        nodes,
        report.nodeId,
        { report, seenAt: report.at ? timestampMs(report.at) : now, lost: false },
        NODES_MAX,
      );
    },
    noteNodeLost(nodeId: string): void {
      const known = nodes.get(nodeId);
      if (known !== undefined) nodes.set(nodeId, { ...known, lost: true });
    },
    noteTraffic(message: TrafficSet): void {
      const known = traffic.get(message.application);
      if (known !== undefined && known.generation > message.generation) return;
      // An application without traffic is one that was deleted.
      if (message.weights.length === 0) traffic.delete(message.application);
      else traffic.set(message.application, message);
    },
    noteImageProgress(message: ImageProgressed, now: number): void {
      remember(images, message.image, { ...progressOf(message), at: now }, PROGRESS_MAX);
    },
    noteWeightsProgress(message: WeightsProgressed, now: number): void {
      const view: WeightsView = {
        nodeId: message.nodeId,
        source: message.source,
        state: "loading",
        bytes: Number(message.bytesTotal),
        bytesFetched: Number(message.bytesDone),
        durationMs: 0,
        failure: null,
        progress: progressOf(message),
        updatedAt: now,
      };
      remember(weights, weightsKey(view), view, PROGRESS_MAX);
    },
    trafficOf(application: string): ApplicationSummary["traffic"] {
      return (traffic.get(application)?.weights ?? []).map(({ version, weight }) => ({ version, weight }));
    },
    nodes: (now: number): NodeView[] =>
      [...nodes.values()]
        .map((seen) => nodeView(seen, now, options.nodeSilentAfterMs))
        .sort((a, b) => (a.nodeId < b.nodeId ? -1 : 1)),
    /** The stored image with what is known of its conversion now. */
    withProgress(image: ImageView, now: number): ImageView {
      const known = images.get(image.image);
      if (image.state !== "wanted" || known === undefined || now - known.at > PROGRESS_FRESH_MS) return image;
      const { at: _at, ...progress } = known;
      return { ...image, progress };
    },
    /** Stored weights and those that are on their way. */
    withLoading(stored: readonly WeightsView[], now: number): WeightsView[] {
      const loading = [...weights.values()].filter(
        (view) =>
          now - view.updatedAt <= PROGRESS_FRESH_MS &&
          !stored.some((one) => weightsKey(one) === weightsKey(view) && one.updatedAt >= view.updatedAt),
      );
      const keys = new Set(loading.map(weightsKey));
      return [...loading, ...stored.filter((view) => !keys.has(weightsKey(view)))];
    },
  };
}

const weightsKey = (view: { nodeId: string; source: string }) => `${view.nodeId} ${view.source}`;

const progressOf = (message: {
  bytesDone: bigint;
  bytesTotal: bigint;
  bytesPerSecond: bigint;
}): Progress => ({
  bytesDone: Number(message.bytesDone),
  bytesTotal: Number(message.bytesTotal),
  bytesPerSecond: Number(message.bytesPerSecond),
});

/** Sets a key as the newest one and drops the oldest beyond the limit. */
function remember<T>(map: Map<string, T>, key: string, value: T, max: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > max) map.delete(map.keys().next().value ?? key);
}

function nodeView({ report, seenAt, lost }: SeenNode, now: number, silentAfterMs: number): NodeView {
  const sum = (pick: (replica: NodeReported["replicas"][number]) => number) =>
    report.replicas.reduce((total, replica) => total + pick(replica), 0);
  return {
    nodeId: report.nodeId,
    state: lost ? "lost" : now - seenAt > silentAfterMs ? "silent" : "alive",
    acceleratorKind: report.acceleratorKind,
    accelerators: report.accelerators,
    acceleratorsUsed: Math.round(sum((replica) => replica.accelerators) * 100) / 100,
    memoryMib: report.memoryMib,
    memoryUsedMib: sum((replica) => replica.memoryMib),
    cordoned: report.cordoned,
    replicas: report.replicas.length,
    seenAt,
  };
}
