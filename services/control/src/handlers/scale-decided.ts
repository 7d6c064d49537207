// The autoscaler decided: shown beside the deployment.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { ScaleDecided } from "@pilotlight/contracts";
import { saveScale } from "../store/scales.ts";

export async function onScaleDecided(
  message: ScaleDecided,
  { tx }: InboxPorts,
  delivery: Delivery,
): Promise<void> {
  await saveScale(tx, message, new Date(delivery.publishedAt));
}
