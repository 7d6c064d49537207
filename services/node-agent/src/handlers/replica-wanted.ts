// A replica is wanted on this node.
import type { ReplicaWanted } from "@pilotlight/contracts";
import { keyToken } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { Replicas } from "../replicas.ts";

/** What holds when a deployment does not say. */
export type Defaults = { startTimeoutMs: number; drainTimeoutMs: number };

/** Accepts the assignment, or refuses it when it does not fit. Throws `invalidArgument` for one that cannot be meant. */
export async function onReplicaWanted(
  event: ReplicaWanted,
  replicas: Replicas,
  defaults: Defaults,
): Promise<void> {
  const { assignment } = event;
  const deployment = assignment?.deployment;
  if (assignment === undefined || deployment === undefined)
    throw new PlatformError("invalidArgument", "a replica was wanted without a deployment", {
      field: "assignment.deployment",
    });
  keyToken("assignment.replicaId", assignment.replicaId);
  if (deployment.image === "")
    throw new PlatformError(
      "invalidArgument",
      `replica ${assignment.replicaId} was wanted without an image`,
      {
        field: "assignment.deployment.image",
      },
    );
  const { startTimeoutMs, drainTimeoutMs } = deployment;
  await replicas.accept({
    ...assignment,
    deployment: {
      ...deployment,
      startTimeoutMs: startTimeoutMs === 0 ? defaults.startTimeoutMs : startTimeoutMs,
      drainTimeoutMs: drainTimeoutMs === 0 ? defaults.drainTimeoutMs : drainTimeoutMs,
    },
  });
}
