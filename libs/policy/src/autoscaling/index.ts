export { decide, initialAutoscalingState } from "./decide.ts";
export { estimateColdStartMs } from "./demand.ts";
export {
  addSample,
  emptyLoadWindow,
  forgetGateways,
  type LoadOptions,
  type LoadWindow,
  observeLoad,
} from "./load.ts";
export { autoscalingStateSchema } from "./stored.ts";
export type {
  AutoscalingAction,
  AutoscalingConfig,
  AutoscalingDecision,
  AutoscalingObservation,
  AutoscalingReason,
  AutoscalingState,
  LoadObservation,
  LoadSample,
  ReplicaBounds,
  ReplicaObservation,
  ReplicaPhase,
  VersionObservation,
} from "./types.ts";
