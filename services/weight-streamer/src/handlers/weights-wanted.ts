// `weightsWanted`: this node will need these weights soon.
import type { WeightsWanted } from "@pilotlight/contracts";
import type { WeightCache } from "../domain/index.ts";
import type { WithdrawnModels } from "../domain/withdrawn-models.ts";
import type { FindForRank } from "./find-for-rank.ts";
import type { LoadReporter } from "./load-weights.ts";

export type HintPorts = {
  cache: Pick<WeightCache, "prefetch">;
  find: FindForRank;
  withdrawn: Pick<WithdrawnModels, "check">;
  reporter: LoadReporter;
};

type Hint = Pick<WeightsWanted, "source" | "ranks">;

/** For finding out whether the model is cut for its ranks. */
const FIND_TIMEOUT_MS = 10_000;

/**
 * Starts fetching and returns: a hint is not worth redelivery, and the replica that needs the weights joins the flight or
 * finds them. A failure is told like any other.
 */
export function onWeightsWanted(ports: HintPorts, hint: Hint): void {
  const { cache, withdrawn, reporter } = ports;
  const { source } = hint;
  const fetchAhead = async () => {
    withdrawn.check(source);
    for (const place of await placesOf(ports, hint)) {
      const { event, failed } = reporter(source);
      cache.prefetch(place, event).catch(failed);
    }
  };
  fetchAhead().catch(reporter(source).failed);
}

/** Where the weights of all ranks are: one place, or a folder each. */
async function placesOf({ find }: HintPorts, { source, ranks }: Hint): Promise<Set<string>> {
  const signal = AbortSignal.timeout(FIND_TIMEOUT_MS);
  const group = Array.from({ length: Math.max(1, ranks) }, (_, rank) => ({ rank, ranks }));
  const found = await Promise.all(group.map((one) => find(source, one, signal)));
  return new Set(found.map((one) => one.source));
}
