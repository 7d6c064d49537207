// From two versions of an application to the plan of a rollout. A rollout is one for all deployments, so of the limits
// that each of them has the strictest hold, and of the times the longest.
import type { ApplicationSpec, DeploymentSpec } from "@pilotlight/contracts";
import type { RolloutDeployment, RolloutPlan } from "@pilotlight/policy";

export type Side = { version: number; spec: ApplicationSpec };

/** The plan to get from `from` (null on the first deployment) to `to`. `wayBack`: a person asked for it, no gates. */
export function makePlan(from: Side | null, to: Side, wayBack: boolean): RolloutPlan {
  const settings = to.spec.deployments.flatMap(({ rollout }) => (rollout === undefined ? [] : [rollout]));
  const both = [...(from?.spec.deployments ?? []), ...to.spec.deployments];
  return {
    from: from === null ? null : String(from.version),
    to: String(to.version),
    deployments: joinDeployments(from?.spec.deployments ?? [], to.spec.deployments),
    stepIntervalMs: Math.max(0, ...settings.map((one) => one.stepIntervalMs)),
    crashesMax: Math.min(...settings.map((one) => one.crashesMax)),
    heartbeatTimeoutMs: Math.max(...settings.map((one) => one.heartbeatTimeoutMs)),
    startTimeoutMs: Math.max(...both.map((one) => one.startTimeoutMs)),
    drainTimeoutMs: Math.max(...both.map((one) => one.drainTimeoutMs)),
    gates: from === null || wayBack ? null : strictestGates(settings),
  };
}

function joinDeployments(
  from: readonly DeploymentSpec[],
  to: readonly DeploymentSpec[],
): RolloutDeployment[] {
  const names = [...new Set([...to, ...from].map((one) => one.name))];
  const side = (deployment: DeploymentSpec | undefined) =>
    deployment === undefined ? null : { accelerators: deployment.resources?.accelerators ?? 0 };
  return names.map((name) => {
    const before = from.find((one) => one.name === name);
    const after = to.find((one) => one.name === name);
    return {
      name,
      from: side(before),
      to: side(after),
      surge: Math.max(1, (after ?? before)?.rollout?.surge ?? 1),
    };
  });
}

function strictestGates(settings: readonly NonNullable<DeploymentSpec["rollout"]>[]): RolloutPlan["gates"] {
  const gates = settings.flatMap((one) => (one.gates === undefined ? [] : [one.gates]));
  if (gates.length === 0) return null;
  const least = (pick: (gate: (typeof gates)[number]) => number) => Math.min(...gates.map(pick));
  const most = (pick: (gate: (typeof gates)[number]) => number) => Math.max(...gates.map(pick));
  const never = gates.some((gate) => gate.unknownPassesAfterMs === undefined);
  return {
    errorRateMax: least((gate) => gate.errorRateMax),
    errorRatioMax: least((gate) => gate.errorRatioMax),
    ttftRatioMax: least((gate) => gate.ttftRatioMax),
    timePerOutputTokenRatioMax: least((gate) => gate.timePerOutputTokenRatioMax),
    samplesMin: most((gate) => gate.samplesMin),
    falseAlarmMax: least((gate) => gate.falseAlarmMax),
    unknownPassesAfterMs: never ? null : most((gate) => gate.unknownPassesAfterMs ?? 0),
    timeoutMs: most((gate) => gate.timeoutMs),
  };
}
