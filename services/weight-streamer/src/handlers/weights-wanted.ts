// `weightsWanted`: this node will need these weights soon.
import type { WeightsWanted } from "@pilotlight/contracts";
import type { WeightCache } from "../domain/index.ts";
import type { LoadReporter } from "./load-weights.ts";

/**
 * Starts fetching and returns: a hint is not worth redelivery, and the replica that needs the weights joins the flight or
 * finds them. A failure is told like any other.
 */
export function onWeightsWanted(cache: WeightCache, hint: WeightsWanted, reporter: LoadReporter): void {
  const { event, failed } = reporter(hint.source);
  cache.prefetch(hint.source, event).catch(failed);
}
