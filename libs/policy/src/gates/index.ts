export { judge, noCounters, openGate, updateGate } from "./gate.ts";
export { addDuration, noMoments } from "./latency-test.ts";
export type { GateConfig, GateState, GateTest, GateVerdict, LogMoments, VersionCounters } from "./types.ts";
