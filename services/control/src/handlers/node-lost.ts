// A node is lost: its replicas went with it, and nobody is left to say so.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { NodeLost } from "@pilotlight/contracts";
import type { LiveView } from "../domain/live-view.ts";
import { retireNode } from "../store/replicas.ts";

export const onNodeLost =
  (live: LiveView) =>
  async (message: NodeLost, { tx }: InboxPorts, delivery: Delivery): Promise<void> => {
    live.noteNodeLost(message.nodeId);
    await retireNode(tx, message.nodeId, new Date(delivery.publishedAt));
  };
