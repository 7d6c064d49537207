// Replicas that the platform still believes to be on this node although the agent has no memory of them (its state folder
// was emptied). Nobody else may write their state, so the agent says that they are gone.
import { type Bus, publish, watchDocuments } from "@pilotlight/bus";
import {
  create,
  EVENTS,
  FailureSchema,
  GoneReason,
  PhaseMarkSchema,
  ReplicaPhase,
  type ReplicaStatus,
  timestampFromMs,
} from "@pilotlight/contracts";

/** Declares replicas of `nodeId` gone that `isKnown` does not know. Gives their IDs. */
export async function buryLostReplicas(
  bus: Bus,
  nodeId: string,
  isKnown: (replicaId: string) => boolean,
  goneKeepMs: number,
): Promise<string[]> {
  const lost = new Map<string, ReplicaStatus>();
  const watch = await watchDocuments(bus, EVENTS.replicaReported, {}, ({ status }) => {
    if (status === undefined || status.nodeId !== nodeId || isKnown(status.replicaId)) return;
    if (status.phase === ReplicaPhase.GONE) lost.delete(status.replicaId);
    else lost.set(status.replicaId, status);
  });
  await watch.current;
  await watch.close();
  for (const status of lost.values()) {
    status.marks.push(create(PhaseMarkSchema, { phase: ReplicaPhase.GONE, at: timestampFromMs(Date.now()) }));
    status.phase = ReplicaPhase.GONE;
    status.goneReason = GoneReason.CRASHED;
    status.failure = create(FailureSchema, {
      code: "internal",
      message: `node ${nodeId} has lost its memory of this replica`,
      remedy: "Keep the node agent's state folder over restarts.",
    });
    const id = `${status.replicaId}:lost`;
    await publish(bus, EVENTS.replicaReported, { status }, { id, ttlMs: goneKeepMs });
  }
  return [...lost.keys()];
}
