// What the policy is shown of one deployment, and with which settings it decides.
import type { BoundsSet, DeploymentSpec } from "@pilotlight/contracts";
import type {
  AutoscalingConfig,
  AutoscalingObservation,
  LoadObservation,
  ReplicaBounds,
  ReplicaObservation,
} from "@pilotlight/policy";
import type { Config } from "../config.ts";

export type Seen = {
  deployment: string;
  bounds: BoundsSet | undefined;
  /** Replicas that are here, with their version. */
  replicas: readonly (ReplicaObservation & { version: number })[];
  /** The load of a version; one of them carries what waits without a version. */
  loadOf: (version: number, withUnassigned: boolean) => LoadObservation | null;
  coldStartsMs: readonly number[];
};

/** The observation. A version without bounds, which is on its way out, has room for none. */
export function observe(seen: Seen): AutoscalingObservation {
  const bounded = new Map(
    (seen.bounds?.versions ?? []).flatMap(({ version, deployments }) => {
      const own = deployments.find((one) => one.deployment === seen.deployment);
      return own === undefined ? [] : [[version, own] as const];
    }),
  );
  const versions = [...new Set([...bounded.keys(), ...seen.replicas.map((one) => one.version)])].sort(
    (a, b) => a - b,
  );
  const newest = Math.max(...bounded.keys());
  return {
    versions: versions.map((version) => {
      const own = bounded.get(version);
      const bounds: ReplicaBounds | null =
        own === undefined
          ? { replicasMin: 0, replicasMax: 0 }
          : own.followsLoad
            ? null
            : { replicasMin: own.replicasMin, replicasMax: own.replicasMax };
      return {
        version: String(version),
        load: seen.loadOf(version, version === newest),
        replicas: seen.replicas
          .filter((one) => one.version === version)
          .map(({ version: _, ...replica }) => replica),
        bounds,
      };
    }),
    coldStartsMs: seen.coldStartsMs,
  };
}

/** The specification of a deployment in one version; undefined when it is not wanted any more. */
export const specOf = (
  bounds: BoundsSet | undefined,
  deployment: string,
  version: number,
): DeploymentSpec | undefined =>
  bounds?.versions
    .find((one) => one.version === version)
    ?.spec?.deployments.find((one) => one.name === deployment);

/** The settings that hold: those of the newest version that has the deployment. Nothing is wanted where none has. */
export function policyConfig(
  bounds: BoundsSet | undefined,
  deployment: string,
  config: Pick<Config, "toleranceReplicas" | "coldStartAssumedMs" | "startBackoffMs" | "startBackoffMsMax">,
): AutoscalingConfig {
  const newest = Math.max(
    ...(bounds?.versions ?? [])
      .filter((one) => one.deployments.some((bound) => bound.deployment === deployment))
      .map((one) => one.version),
  );
  const autoscaling = specOf(bounds, deployment, newest)?.autoscaling;
  return {
    replicasMin: autoscaling?.replicasMin ?? 0,
    replicasMax: autoscaling?.replicasMax ?? 0,
    targetInFlight: autoscaling?.targetInFlight || 1,
    scaleUpDelayMs: autoscaling?.scaleUpDelayMs ?? 0,
    scaleDownDelayMs: autoscaling?.scaleDownDelayMs ?? 0,
    scaleToZeroDelayMs: autoscaling?.scaleToZeroDelayMs ?? 0,
    toleranceReplicas: config.toleranceReplicas,
    coldStartMsAssumed: config.coldStartAssumedMs,
    startBackoffMs: config.startBackoffMs,
    startBackoffMsMax: config.startBackoffMsMax,
  };
}
