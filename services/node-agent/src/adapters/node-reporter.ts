// The node's heartbeat: what it has and what its replicas occupy.
import { type Bus, publishSample } from "@pilotlight/bus";
import { EVENTS, timestampFromMs } from "@pilotlight/contracts";
import { gauge } from "@pilotlight/telemetry";
import type { Replica } from "../domain/replica.ts";
import type { NodeCapacity } from "../domain/resources.ts";

const replicasByState = gauge({
  name: "pilotlight_node_replicas",
  help: "Replicas on this node by state.",
  labelNames: ["state"],
});

export type NodeView = {
  nodeId: string;
  capacity: NodeCapacity;
  /** No new replicas. */
  cordoned: () => boolean;
  replicas: () => readonly Replica[];
};

/** Reports every `intervalMs`, at once too, until the returned function is called, and then once more: a node that goes is cordoned. */
export function startNodeReporter(bus: Bus, node: NodeView, intervalMs: number): () => void {
  const report = () => {
    const replicas = node.replicas();
    replicasByState.reset();
    for (const { state } of replicas) replicasByState.inc({ state: state.kind });
    publishSample(bus, EVENTS.nodeReported, {
      nodeId: node.nodeId,
      ...node.capacity,
      cordoned: node.cordoned(),
      replicas: replicas
        .filter(({ state }) => state.kind !== "gone")
        .map(({ assignment }) => ({
          replicaId: assignment.replicaId,
          accelerators: assignment.deployment?.resources?.accelerators ?? 0,
          memoryMib: assignment.deployment?.resources?.memoryMib ?? 0,
        })),
      at: timestampFromMs(Date.now()),
    });
  };
  report();
  const timer = setInterval(report, intervalMs);
  return () => {
    clearInterval(timer);
    report();
  };
}
