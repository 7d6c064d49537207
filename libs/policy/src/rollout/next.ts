// Which rollout comes next, for one application: one at a time, and the newest wish wins.
import { isOver } from "./decide.ts";
import type { RolloutState } from "./types.ts";

export type NextRollout =
  | { kind: "none" }
  | { kind: "start"; from: string | null; to: string }
  /** Tell the running one that it is superseded; the next starts when it is over. */
  | { kind: "supersede" };

/**
 * `serving`: the version that serves outside of rollouts. `wanted`: the version that the application should have.
 * `latest`: the last rollout, running or over. A version whose rollout did not succeed is not tried again until it is
 * asked for again: `askedAgain`.
 */
export function nextRollout(
  serving: string | null,
  wanted: string | null,
  latest: { to: string; state: RolloutState } | null,
  askedAgain: boolean,
): NextRollout {
  if (wanted === null) return { kind: "none" };
  if (latest !== null && !isOver(latest.state)) {
    return latest.to === wanted ? { kind: "none" } : { kind: "supersede" };
  }
  if (wanted === serving) return { kind: "none" };
  const refused = latest !== null && latest.to === wanted && !askedAgain && !isSuperseded(latest.state);
  return refused ? { kind: "none" } : { kind: "start", from: serving, to: wanted };
}

/** Undone for another version's sake, not for a fault of its own. */
const isSuperseded = (state: RolloutState) =>
  state.kind === "rolledBack" && state.reason.kind === "superseded";
