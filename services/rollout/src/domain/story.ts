// A rollout's state in the words of the events that tell of it.
import { RolloutPhase } from "@pilotlight/contracts";
import type { RolloutAction, RolloutState } from "@pilotlight/policy";

const PHASE: Record<RolloutState["kind"], RolloutPhase> = {
  starting: RolloutPhase.STARTING,
  gating: RolloutPhase.GATING,
  stepping: RolloutPhase.STEPPING,
  finishing: RolloutPhase.STEPPING,
  rollingBack: RolloutPhase.ROLLING_BACK,
  done: RolloutPhase.DONE,
  rolledBack: RolloutPhase.ROLLED_BACK,
  failed: RolloutPhase.FAILED,
};

export type Telling = { phase: RolloutPhase; traffic: number; reason: string };

/** What is told of a state. `actions`: those of the decision that led to it. */
export function tell(
  state: RolloutState,
  versions: { from: number | null; to: number },
  actions: readonly RolloutAction[] = [],
): Telling {
  return { phase: PHASE[state.kind], traffic: trafficOf(state), reason: reasonOf(state, versions, actions) };
}

/** Whether there is something to tell between two states. */
export const isMove = (before: RolloutState, after: RolloutState): boolean =>
  before.kind !== after.kind || trafficOf(before) !== trafficOf(after);

function trafficOf(state: RolloutState): number {
  if (state.kind === "done") return 1;
  if (state.kind === "rolledBack" || state.kind === "failed") return 0;
  return state.ordered.weightTo ?? 0;
}

function reasonOf(
  state: RolloutState,
  { from, to }: { from: number | null; to: number },
  actions: readonly RolloutAction[],
): string {
  switch (state.kind) {
    case "starting":
      return from === null ? `version ${to} starts` : `version ${to} starts beside version ${from}`;
    case "gating":
      return `version ${to} is ready and is compared with version ${from}`;
    case "stepping":
      return `${percent(trafficOf(state))} of the traffic on version ${to}`;
    case "finishing":
      return from === null
        ? `version ${to} takes the traffic`
        : `version ${to} has the traffic; version ${from} drains`;
    case "rollingBack":
    case "rolledBack":
    case "failed":
      return `${state.reason.kind}: ${state.reason.why}`;
    case "done":
      return actions.find((action) => action.kind === "complete")?.why ?? `version ${to} serves`;
    default:
      return state satisfies never;
  }
}

const percent = (share: number) => `${Math.round(share * 100)} %`;
