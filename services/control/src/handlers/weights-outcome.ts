// Weights are in a node's memory, or could not be loaded.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { WeightsFailed, WeightsLoaded } from "@pilotlight/contracts";
import { weightsFailedView, weightsLoadedView } from "../domain/views.ts";
import { saveWeights } from "../store/artifacts.ts";

export async function onWeightsLoaded(
  message: WeightsLoaded,
  { tx }: InboxPorts,
  delivery: Delivery,
): Promise<void> {
  await saveWeights(tx, weightsLoadedView(message, delivery.publishedAt));
}

export async function onWeightsFailed(
  message: WeightsFailed,
  { tx }: InboxPorts,
  delivery: Delivery,
): Promise<void> {
  await saveWeights(tx, weightsFailedView(message, delivery.publishedAt));
}
