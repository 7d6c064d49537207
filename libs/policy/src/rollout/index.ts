export { decideRollout, isOver, startRollout } from "./decide.ts";
export { type NextRollout, nextRollout } from "./next.ts";
export { rolloutPlanSchema, rolloutStateSchema } from "./stored.ts";
export type {
  Ongoing,
  Ordered,
  ReplicaCounts,
  RollbackCause,
  RollbackReason,
  RolloutAction,
  RolloutDecision,
  RolloutDeployment,
  RolloutObservation,
  RolloutPlan,
  RolloutState,
} from "./types.ts";
