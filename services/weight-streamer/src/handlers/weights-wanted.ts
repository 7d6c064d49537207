// `weightsWanted`: this node will need these weights soon.
import type { WeightsWanted } from "@pilotlight/contracts";
import type { WeightCache } from "../domain/index.ts";
import type { LoadReporter } from "./load-weights.ts";

/**
 * Starts fetching and returns: a hint is not worth redelivery, and the replica that needs the weights joins the flight or
 * finds them. A failure is told like any other.
 */
export function onWeightsWanted(cache: WeightCache, hint: WeightsWanted, report: LoadReporter): void {
  cache.prefetch(hint.source).catch((error) => report.failed(hint.source, error));
}
