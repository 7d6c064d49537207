// Which models may be deployed: those that the engine can run and, where the platform asks for it, that somebody approved as they
// are now. Asked before a version is made, so that what cannot be is an answer to whoever deploys, not a failed start.
import { PlatformError } from "@pilotlight/errors";
import type { CatalogueEntry } from "@pilotlight/models/catalogue-entry";
import type { Application, Deployment } from "@pilotlight/spec";
import type { Queryable } from "@pilotlight/store";
import type { World } from "../domain/world.ts";
import { findApproval } from "../store/approvals.ts";

export type ModelPolicy = { modelsApprovedOnly: boolean };

/**
 * Throws `unsupported` for a model that its engine cannot run and `preconditionFailed` for one that is not approved. A record that
 * cannot be read stops a deployment only where approval is asked for.
 */
export async function admitModels(
  world: Pick<World, "models" | "store">,
  policy: ModelPolicy,
  application: Application,
): Promise<void> {
  for (const deployment of application.deployments) {
    const { model } = deployment;
    if (model === undefined) continue;
    const { source } = model;
    if (policy.modelsApprovedOnly) {
      const entry = await world.models.find(source);
      refuseUnfit(deployment, entry);
      refuseChanged(source, entry, (await approvalOf(world.store.sql, source)).recordSha256);
    } else if (source.startsWith("bucket://")) {
      refuseUnfit(deployment, await world.models.find(source).catch(() => null));
    }
  }
}

/** As `admitModels` does for approval, without looking at the models: an earlier version is brought back where its bucket is away. */
export async function refuseUnapproved(
  sql: Queryable,
  policy: ModelPolicy,
  application: Application,
): Promise<void> {
  if (!policy.modelsApprovedOnly) return;
  for (const { model } of application.deployments) {
    if (model !== undefined) await approvalOf(sql, model.source);
  }
}

async function approvalOf(sql: Queryable, source: string) {
  const approval = await findApproval(sql, source);
  if (approval !== null) return approval;
  throw new PlatformError("preconditionFailed", `nobody has approved the model ${source}`, {
    field: "deployments.model.source",
    remedy: `Have it looked at, then: pilotlight model approve ${source}`,
  });
}

function refuseChanged(source: string, entry: CatalogueEntry | null, approved: string): void {
  if (entry?.recordSha256 === approved) return;
  const what = entry === null ? "is gone, or has no record" : "has changed since it was approved";
  throw new PlatformError("preconditionFailed", `the model ${source} ${what}`, {
    field: "deployments.model.source",
    remedy: `Look at it (pilotlight model show ${source}), then approve it again.`,
  });
}

function refuseUnfit({ name, engine }: Deployment, entry: CatalogueEntry | null): void {
  if (entry === null || engine.kind !== "embedded") return;
  const { source, quantisation, ranks } = entry;
  const { tensorParallel } = engine;
  if (quantisation !== null) {
    throw new PlatformError(
      "unsupported",
      `deployment ${name}: ${source} is quantised (${quantisation}), and the embedded engine runs plain weights only`,
      {
        field: "deployments.engine",
        remedy: "Deploy the model that it was made from, or use an engine of kind 'process' (vLLM, SGLang).",
      },
    );
  }
  if (ranks === null || ranks === tensorParallel) return;
  throw new PlatformError(
    "unsupported",
    `deployment ${name}: ${source} is cut for ${ranks} ranks, and the engine's tensorParallel is ${tensorParallel}`,
    {
      field: "deployments.engine.tensorParallel",
      remedy: `Set tensorParallel: ${ranks}, or deploy the model that it was cut from.`,
    },
  );
}
