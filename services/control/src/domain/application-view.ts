// An application as it is shown: what is wanted, joined with what runs.
import type {
  ApplicationSummary,
  DeploymentView,
  ReplicaView,
  RolloutView,
  VersionView,
} from "@pilotlight/control-api";
import type { ApplicationRow, VersionRow } from "../store/applications.ts";
import type { ScaleRow } from "../store/scales.ts";

export type Parts = {
  application: ApplicationRow;
  /** Those that are wanted, serving or have replicas. */
  versions: readonly VersionRow[];
  /** Living replicas of this application. */
  replicas: readonly ReplicaView[];
  scales: readonly ScaleRow[];
  traffic: ApplicationSummary["traffic"];
  rollout: RolloutView | null;
};

/** The summary of an application. */
export function applicationSummary(parts: Parts): ApplicationSummary {
  const { application } = parts;
  return {
    name: application.name,
    createdAt: application.createdAt.getTime(),
    wantedVersion: application.wantedVersion,
    servingVersion: application.servingVersion,
    traffic: parts.traffic,
    rollout: parts.rollout,
    deployments: parts.versions
      .toSorted((a, b) => a.version - b.version)
      .flatMap((version) => version.spec.deployments.map(({ name }) => deploymentView(parts, version, name))),
  };
}

function deploymentView(parts: Parts, version: VersionRow, name: string): DeploymentView {
  const spec = version.spec.deployments.find((one) => one.name === name);
  const own = parts.replicas.filter((one) => one.version === version.version && one.deployment === name);
  const scale = parts.scales.find(
    (one) =>
      one.application === version.application && one.version === version.version && one.deployment === name,
  );
  const ready = own.filter(({ phase }) => phase === "ready").length;
  const draining = own.filter(({ phase }) => phase === "draining").length;
  return {
    name,
    version: version.version,
    image: spec?.image ?? "",
    model:
      spec?.model === undefined
        ? null
        : { name: spec.model.name, source: spec.model.source, task: spec.model.task },
    engine: spec?.engine.kind ?? "",
    starting: own.length - ready - draining,
    ready,
    draining,
    wanted: scale?.replicasWanted ?? null,
    reason: scale?.reason ?? null,
  };
}

/** A version in the list of an application. */
export function versionView(application: ApplicationRow, version: VersionRow): VersionView {
  return {
    version: version.version,
    digest: version.digest,
    createdAt: version.createdAt.getTime(),
    servedAt: version.servedAt?.getTime() ?? null,
    state:
      version.version === application.servingVersion
        ? "serving"
        : version.version === application.wantedVersion
          ? "rollingOut"
          : "idle",
  };
}
