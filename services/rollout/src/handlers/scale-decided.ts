// The autoscaler said how many replicas the load asks for, a rollout's n, and which places are held under which bounds.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { ScaleDecided } from "@pilotlight/contracts";
import { saveDemand } from "../store/applications.ts";

export const onScaleDecided =
  (step: (ports: InboxPorts, application: string) => Promise<void>) =>
  async (message: ScaleDecided, ports: InboxPorts, delivery: Delivery): Promise<void> => {
    const word = {
      wanted: message.replicasDemanded,
      generation: message.boundsGeneration,
      held: new Map(message.held.map(({ version, replicas }) => [String(version), replicas])),
    };
    await saveDemand(ports.tx, message, word, new Date(delivery.publishedAt));
    await step(ports, message.application);
  };
