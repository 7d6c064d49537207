// The pure decisions of the platform: no clock, no I/O, no chance. Callers bring `now`, an observation and the state,
// and get the next state, what to do, and when to ask again.
export * from "./admission/index.ts";
export * from "./autoscaling/index.ts";
export * from "./gates/index.ts";
export * from "./placement/index.ts";
export { createRandom, type Random } from "./random.ts";
export {
  type DecisionRecord,
  type PolicyInput,
  type PolicyName,
  type PolicyOutput,
  type Replayed,
  recordDecision,
  replayDecision,
} from "./record.ts";
export * from "./rollout/index.ts";
export * from "./routing/index.ts";
export type { Instant } from "./time.ts";
