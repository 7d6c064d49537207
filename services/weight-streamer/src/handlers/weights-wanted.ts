// `weightsWanted`: this node will need these weights soon.
import type { WeightsWanted } from "@pilotlight/contracts";
import type { WeightCache } from "../domain/index.ts";
import type { WithdrawnModels } from "../domain/withdrawn-models.ts";
import type { LoadReporter } from "./load-weights.ts";

export type HintPorts = {
  cache: Pick<WeightCache, "prefetch">;
  withdrawn: Pick<WithdrawnModels, "check">;
  reporter: LoadReporter;
};

/**
 * Starts fetching and returns: a hint is not worth redelivery, and the replica that needs the weights joins the flight or
 * finds them. A failure is told like any other.
 */
export function onWeightsWanted(
  { cache, withdrawn, reporter }: HintPorts,
  { source }: Pick<WeightsWanted, "source">,
): void {
  const { event, failed } = reporter(source);
  try {
    withdrawn.check(source);
    cache.prefetch(source, event).catch(failed);
  } catch (refusal) {
    failed(refusal);
  }
}
