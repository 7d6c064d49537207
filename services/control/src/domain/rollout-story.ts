// A rollout as the sequence of its moves. Moves may come twice or late; the story is the same.
import type { RolloutView } from "@pilotlight/control-api";

export type Move = Pick<RolloutView, "rolloutId" | "application" | "fromVersion" | "toVersion"> &
  RolloutView["steps"][number];

/** Steps shown of one rollout: its first and its newest. */
const STEPS_MAX = 500;

/** The story with one more move. */
export function addMove(story: RolloutView | null, move: Move): RolloutView {
  const { at, phase, traffic, reason, ...identity } = move;
  const steps = [...(story?.steps ?? []), { at, phase, traffic, reason }].sort((a, b) => a.at - b.at);
  const kept = steps.length > STEPS_MAX ? [...steps.slice(0, 1), ...steps.slice(-(STEPS_MAX - 1))] : steps;
  const last = kept.at(-1) ?? { at, phase, traffic, reason };
  const over = last.phase === "done" || last.phase === "rolledBack" || last.phase === "failed";
  return {
    ...identity,
    phase: last.phase,
    traffic: last.traffic,
    reason: last.reason,
    startedAt: kept[0]?.at ?? at,
    endedAt: over ? last.at : null,
    steps: kept,
  };
}
