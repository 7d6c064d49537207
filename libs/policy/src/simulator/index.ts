export {
  type Faults,
  goodBehaviour,
  noFaults,
  type SimulatedDeployment,
  type SimulatedVersion,
  type SimulationOptions,
  type VersionBehaviour,
} from "./options.ts";
export { randomScenario } from "./scenario.ts";
export { type SimulationResult, simulate } from "./simulate.ts";
