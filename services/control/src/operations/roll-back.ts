// Rolling back: an earlier version is asked for again.
import { ActivationReason, EVENTS } from "@pilotlight/contracts";
import type { Activation } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import type { Queryable } from "@pilotlight/store";
import { specMessage } from "../domain/spec-message.ts";
import type { World } from "../domain/world.ts";
import {
  type ApplicationRow,
  findApplication,
  findServedBefore,
  findVersion,
  lockWanted,
  setWanted,
  type VersionRow,
} from "../store/applications.ts";
import { type ModelPolicy, refuseUnapproved } from "./admit-models.ts";

/** Asks for `version`, or for the one that served before the present one. */
export function rollBack(
  world: World,
  settings: ModelPolicy & { bucketUri: string },
  name: string,
  version: number | null,
): Promise<Activation> {
  return world.outbox.transaction(async (tx, publish) => {
    await lockWanted(tx);
    const application = await existing(tx, name);
    const target = await choose(tx, application, version);
    await refuseUnapproved(tx, settings, target.spec);
    await setWanted(tx, name, target.version);
    publish(EVENTS.versionActivationRequested, {
      application: name,
      version: target.version,
      reason: ActivationReason.ROLLBACK,
      spec: specMessage(target.spec, settings.bucketUri),
    });
    return { application: name, version: target.version, replaces: application.wantedVersion };
  });
}

/** An application that is not deleted. Throws `notFound`. */
export async function existing(sql: Queryable, name: string): Promise<ApplicationRow> {
  const application = await findApplication(sql, name);
  if (application !== null && application.deletedAt === null) return application;
  throw new PlatformError("notFound", `there is no application ${name}`, {
    remedy: "'pilotlight status' lists them.",
  });
}

async function choose(
  sql: Queryable,
  application: ApplicationRow,
  version: number | null,
): Promise<VersionRow> {
  const { name, wantedVersion } = application;
  if (version === null) {
    const before = await findServedBefore(sql, name, wantedVersion);
    if (before !== null) return before;
    throw new PlatformError("preconditionFailed", `no other version of ${name} has served yet`, {
      remedy: "Name a version, or deploy another file.",
    });
  }
  const found = await findVersion(sql, name, version);
  if (found === null) {
    throw new PlatformError("notFound", `${name} has no version ${version}`, {
      field: "version",
      remedy: `'pilotlight status ${name}' lists its versions.`,
    });
  }
  if (version === wantedVersion) {
    throw new PlatformError("preconditionFailed", `version ${version} is what ${name} is to run already`, {
      field: "version",
      remedy: "Name another version.",
    });
  }
  return found;
}
