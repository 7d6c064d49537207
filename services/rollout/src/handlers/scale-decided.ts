// The autoscaler said how many replicas the load asks for: a rollout's n.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { ScaleDecided } from "@pilotlight/contracts";
import { saveDemand } from "../store/applications.ts";

export const onScaleDecided =
  (step: (ports: InboxPorts, application: string) => Promise<void>) =>
  async (message: ScaleDecided, ports: InboxPorts, delivery: Delivery): Promise<void> => {
    const { application, deployment, replicasDemanded: replicas } = message;
    await saveDemand(ports.tx, { application, deployment, replicas }, new Date(delivery.publishedAt));
    await step(ports, application);
  };
