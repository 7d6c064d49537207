// Nodes as they report themselves, and what they have left beside the places that are taken.
import { type NodeReported, timestampMs } from "@pilotlight/contracts";
import type { PlacementNode } from "@pilotlight/policy";
import type { ReplicaRow } from "./replica.ts";

export type SeenNode = { report: NodeReported; seenAt: number; lost: boolean };

/** Nodes remembered (I10). */
const NODES_MAX = 10_000;

export type Nodes = ReturnType<typeof createNodes>;

/** The nodes that were heard of. */
export function createNodes() {
  const seen = new Map<string, SeenNode>();
  return {
    note(report: NodeReported, now: number): void {
      // A report that was long on its way says nothing about now.
      const sentAt = report.at === undefined ? now : Math.min(now, timestampMs(report.at));
      const known = seen.get(report.nodeId);
      if (known !== undefined && known.seenAt > sentAt) return;
      seen.delete(report.nodeId);
      seen.set(report.nodeId, { report, seenAt: sentAt, lost: false });
      if (seen.size > NODES_MAX) seen.delete(seen.keys().next().value ?? "");
    },
    noteLost(nodeId: string): void {
      const known = seen.get(nodeId);
      if (known !== undefined) seen.set(nodeId, { ...known, lost: true });
    },
    seenAt: (nodeId: string): number | null => seen.get(nodeId)?.seenAt ?? null,
    all: (): SeenNode[] => [...seen.values()],
    /** Whether a node holds a replica; null when the node was not heard of lately. */
    holds(nodeId: string, replicaId: string, now: number, silentAfterMs: number): boolean | null {
      const node = seen.get(nodeId);
      if (node === undefined || node.lost || now - node.seenAt > silentAfterMs) return null;
      return node.report.replicas.some((replica) => replica.replicaId === replicaId);
    },
  };
}

/** The nodes as placement sees them. `rows`: every place that is taken, of all deployments. */
export function placementNodes(
  nodes: readonly SeenNode[],
  rows: Iterable<ReplicaRow>,
  context: { now: number; silentAfterMs: number; application: string; deployment: string },
): PlacementNode[] {
  const taken = Map.groupBy(rows, (row) => row.nodeId ?? "");
  return nodes.map(({ report, seenAt, lost }) => {
    const own = taken.get(report.nodeId) ?? [];
    return {
      nodeId: report.nodeId,
      phase:
        lost || context.now - seenAt > context.silentAfterMs
          ? "lost"
          : report.cordoned
            ? "cordoned"
            : "ready",
      devices: Array.from({ length: report.accelerators }, (_, index) => ({
        index,
        kind: report.acceleratorKind,
        free: 1 - shareTaken(own, index),
      })),
      memoryFreeMb: report.memoryMib - own.reduce((sum, row) => sum + row.memoryMib, 0),
      siblings: own.filter(
        (row) => row.application === context.application && row.deployment === context.deployment,
      ).length,
    };
  });
}

const shareTaken = (rows: readonly ReplicaRow[], index: number): number =>
  rows
    .flatMap((row) => row.devices)
    .filter((device) => device.index === index)
    .reduce((sum, device) => sum + device.share, 0);

/** Nodes that hold replicas and were not heard of for too long. `heardSince`: when hearing became possible at all. */
export function lostNodes(
  now: number,
  rows: Iterable<ReplicaRow>,
  nodes: Pick<Nodes, "seenAt">,
  options: { heardSince: number; lostAfterMs: number },
): { nodeId: string; lastSeenAt: number | null }[] {
  const holders = new Set([...rows].flatMap((row) => (row.nodeId === null ? [] : [row.nodeId])));
  return [...holders]
    .map((nodeId) => ({ nodeId, lastSeenAt: nodes.seenAt(nodeId) }))
    .filter(({ lastSeenAt }) => now - Math.max(lastSeenAt ?? 0, options.heardSince) > options.lostAfterMs);
}
