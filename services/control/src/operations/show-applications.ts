// Reading: applications joined with what runs of them.
import type { ApplicationDetail, ApplicationSummary, ReplicaView } from "@pilotlight/control-api";
import { applicationSummary, versionView } from "../domain/application-view.ts";
import type { World } from "../domain/world.ts";
import {
  type ApplicationRow,
  listApplications,
  listVersions,
  type VersionRow,
} from "../store/applications.ts";
import { listLatest, listLiving } from "../store/replicas.ts";
import { latestRollouts, listRollouts } from "../store/rollouts.ts";
import { listScales } from "../store/scales.ts";
import { existing } from "./roll-back.ts";

const VERSIONS_SHOWN = 50;
const REPLICAS_SHOWN = 200;

/** All applications at a glance. */
export async function showApplications(world: World): Promise<ApplicationSummary[]> {
  const { sql } = world.store;
  const [applications, replicas, scales, rollouts] = await Promise.all([
    listApplications(sql),
    listLiving(sql, null),
    listScales(sql),
    latestRollouts(sql),
  ]);
  return Promise.all(
    applications.map(async (application) => {
      const own = replicas.filter((replica) => replica.application === application.name);
      const versions = await listVersions(sql, application.name, VERSIONS_SHOWN);
      return applicationSummary({
        application,
        versions: versions.filter(isAlive(application, own)),
        replicas: own,
        scales,
        traffic: world.live.trafficOf(application.name),
        rollout: rollouts.get(application.name) ?? null,
      });
    }),
  );
}

/** One application in detail. Throws `notFound`. */
export async function showApplication(world: World, name: string): Promise<ApplicationDetail> {
  const { sql } = world.store;
  const application = await existing(sql, name);
  const [living, latest, scales, rollouts, versions] = await Promise.all([
    listLiving(sql, name),
    listLatest(sql, name, REPLICAS_SHOWN),
    listScales(sql),
    listRollouts(sql, name, 1),
    listVersions(sql, name, VERSIONS_SHOWN),
  ]);
  const alive = new Set(living.map((replica) => replica.replicaId));
  return {
    ...applicationSummary({
      application,
      versions: versions.filter(isAlive(application, living)),
      replicas: living,
      scales,
      traffic: world.live.trafficOf(name),
      rollout: rollouts[0] ?? null,
    }),
    versions: versions.map((version) => versionView(application, version)),
    replicas: [...living, ...latest.filter((replica) => !alive.has(replica.replicaId))],
  };
}

/** Versions worth showing: wanted, serving, or with replicas. */
const isAlive = (application: ApplicationRow, replicas: readonly ReplicaView[]) => (version: VersionRow) =>
  version.version === application.wantedVersion ||
  version.version === application.servingVersion ||
  replicas.some((replica) => replica.version === version.version);
