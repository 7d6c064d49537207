// Deploying: from a checked application file to a version that is asked for. The rows and what is said about them
// commit together; the same file again changes nothing.
import { ActivationReason, EVENTS, timestampFromMs } from "@pilotlight/contracts";
import type { DeployResult } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { type Application, diffApplications, digestApplication } from "@pilotlight/spec";
import type { Transaction } from "@pilotlight/store";
import { specMessage } from "../domain/spec-message.ts";
import { imageWantedView } from "../domain/views.ts";
import type { World } from "../domain/world.ts";
import {
  findApplication,
  findVersion,
  insertVersion,
  lockWanted,
  modelsOfOthers,
} from "../store/applications.ts";
import { noteImageWanted } from "../store/artifacts.ts";
import { admitModels, type ModelPolicy } from "./admit-models.ts";

export type DeploySettings = ModelPolicy & { bucketUri: string; imagePlatform: string; workerImage: string };

/**
 * Makes the next version of an application and asks for it. Throws `alreadyExists` when a model's name is taken, and what
 * `admitModels` throws.
 */
export async function deploy(
  world: World,
  settings: DeploySettings,
  application: Application,
  { dryRun }: { dryRun: boolean },
): Promise<DeployResult> {
  const name = application.application;
  const digest = digestApplication(application);
  await admitModels(world, settings, application);
  return world.outbox.transaction(async (tx, publish) => {
    await lockWanted(tx);
    const known = await findApplication(tx, name);
    const wanted = known?.wantedVersion ?? null;
    const current = wanted === null ? null : await findVersion(tx, name, wanted);
    const result = {
      application: name,
      digest,
      replaces: wanted,
      changes:
        current === null
          ? application.deployments.map((one) => ({ kind: "deploymentAdded" as const, deployment: one.name }))
          : diffApplications(current.spec, application),
      dryRun,
    };
    if (current?.digest === digest) return { ...result, outcome: "unchanged", version: current.version };
    await refuseTakenModels(tx, application);
    if (dryRun) return { ...result, outcome: "created", version: known?.nextVersion ?? 1 };

    const now = world.now();
    const version = await insertVersion(tx, { application: name, spec: application, digest }, new Date(now));
    const spec = specMessage(application, settings.bucketUri);
    publish(EVENTS.versionCreated, {
      application: name,
      version,
      spec,
      specDigest: digest,
      createdAt: timestampFromMs(now),
    });
    for (const image of imagesOf(application, settings.workerImage)) {
      await noteImageWanted(tx, imageWantedView(image, settings.imagePlatform, now));
      publish(EVENTS.imageWanted, { image, platform: settings.imagePlatform });
    }
    publish(EVENTS.versionActivationRequested, {
      application: name,
      version,
      reason: ActivationReason.DEPLOY,
      spec,
    });
    return { ...result, outcome: "created", version };
  });
}

/** The images to convert ahead. What the platform's own stands for may be known to the nodes only. */
function imagesOf(application: Application, workerImage: string): Set<string> {
  const images = application.deployments.map(({ image }) => (image === WORKER_IMAGE ? workerImage : image));
  return new Set(images.filter((image) => image !== ""));
}

const WORKER_IMAGE = "pilotlight://worker";

/** Gateways route by the model's name, so two applications cannot have the same one. */
async function refuseTakenModels(tx: Transaction, application: Application): Promise<void> {
  const names = application.deployments.flatMap(({ model }) => (model === undefined ? [] : [model.name]));
  const [taken] = await modelsOfOthers(tx, application.application, names);
  if (taken === undefined) return;
  throw new PlatformError(
    "alreadyExists",
    `application ${taken.application} answers to the model name '${taken.model}' already`,
    { field: "deployments.model.name", remedy: "Give the model another name, or delete that application." },
  );
}
