// A node that is not heard of is lost, and its replicas with it. Nobody is left there to say so, so it is said here: as
// an event, and as the last document of each replica, so that gateways stop to send requests there.
import { EVENTS, GoneReason, ReplicaPhase, timestampFromMs } from "@pilotlight/contracts";
import { logger } from "@pilotlight/telemetry";
import { type Key, keyOf } from "../domain/heard.ts";
import { lostNodes } from "../domain/nodes.ts";
import type { ReplicaRow, ReplicaStatus } from "../domain/replica.ts";
import { deleteReplicas } from "../store/replicas.ts";
import type { World } from "./step.ts";

const GONE_KEEP_MS = 24 * 3_600_000;

/** Gives up what is lost. `heardSince`: since when nodes could be heard. Gives the deployments that lost something. */
export async function loseNodes(world: World, now: number, heardSince: number): Promise<Key[]> {
  const { heard, nodes, fleet, outbox, config } = world;
  const touched = new Set<Key>();
  const lost = lostNodes(now, fleet.rows(), nodes, { heardSince, lostAfterMs: config.nodeLostAfterMs });
  for (const { nodeId, lastSeenAt } of lost) {
    const rows = fleet.rows().filter((row) => row.nodeId === nodeId);
    const gone = rows.map((row) => goneStatus(row, heard.statusesOf(keyOf(row)).get(row.replicaId), now));
    logger("fleet").warn("node lost", { nodeId, replicas: rows.length, lastSeenAt });
    await outbox.transaction(async (tx, publish) => {
      await deleteReplicas(
        tx,
        rows.map((row) => row.replicaId),
      );
      publish(EVENTS.nodeLost, {
        nodeId,
        ...(lastSeenAt === null ? {} : { lastSeenAt: timestampFromMs(lastSeenAt) }),
      });
      for (const status of gone) publish(EVENTS.replicaReported, { status }, { ttlMs: GONE_KEEP_MS });
    });
    nodes.noteLost(nodeId);
    for (const row of rows) {
      const key = keyOf(row);
      const known = fleet.get(key);
      const left = new Map(known.rows);
      left.delete(row.replicaId);
      fleet.set(key, { ...known, rows: left });
      touched.add(key);
    }
    for (const status of gone) heard.noteReplica(status);
  }
  return [...touched];
}

function goneStatus(row: ReplicaRow, known: ReplicaStatus | undefined, now: number): ReplicaStatus {
  const at = timestampFromMs(now);
  return {
    $typeName: "pilotlight.documents.v1.ReplicaStatus",
    replicaId: row.replicaId,
    application: row.application,
    version: row.version,
    deployment: row.deployment,
    nodeId: row.nodeId ?? "",
    phase: ReplicaPhase.GONE,
    marks: [
      ...(known?.marks ?? []),
      { $typeName: "pilotlight.documents.v1.PhaseMark", phase: ReplicaPhase.GONE, at },
    ],
    endpoint: "",
    goneReason: GoneReason.NODE_LOST,
    inFlightMax: 0,
    ...(known?.resources === undefined ? {} : { resources: known.resources }),
  };
}
