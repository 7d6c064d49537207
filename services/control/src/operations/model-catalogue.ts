// The catalogue: what lies in the bucket, beside who approved it.
import type { ModelView } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import type { CatalogueEntry } from "@pilotlight/models/catalogue-entry";
import type { Caller } from "../adapters/callers.ts";
import type { World } from "../domain/world.ts";
import {
  type ApprovalRow,
  deleteApproval,
  findApproval,
  listApprovals,
  saveApproval,
} from "../store/approvals.ts";
import { deleteWithdrawal, saveWithdrawal, type WithdrawalRow } from "../store/withdrawals.ts";
import { type PermissionSettings, sayPermitted, sayWithdrawn } from "./model-permission.ts";

type Catalogue = Pick<World, "models" | "store">;

const APPROVALS_MAX = 10_000;

/** The models of the bucket, and those elsewhere that were approved (as they were then). */
export async function listCatalogue({ models, store }: Catalogue): Promise<ModelView[]> {
  const [entries, approvals] = await Promise.all([models.list(), listApprovals(store.sql, APPROVALS_MAX)]);
  const bySource = new Map(approvals.map((row) => [row.source, row]));
  const here = entries.map((entry) => view(entry, bySource.get(entry.source) ?? null));
  const known = new Set(entries.map(({ source }) => source));
  const elsewhere = approvals
    .filter(({ source }) => !known.has(source) && !source.startsWith("bucket://"))
    .map((row) => view(row.entry, row));
  return [...here, ...elsewhere];
}

/** One model, read now. Throws `notFound`. */
export async function showModel({ models, store }: Catalogue, source: string): Promise<ModelView> {
  return view(await existing({ models }, source), await findApproval(store.sql, source));
}

/** Approves what the source holds now, in the caller's name; where its approval was taken back, replicas may load it again. */
export async function approveModel(
  { models, outbox, now }: Pick<World, "models" | "outbox" | "now">,
  settings: PermissionSettings,
  request: { source: string; note: string },
  caller: Caller,
): Promise<ModelView> {
  const entry = await existing({ models }, request.source);
  const row: ApprovalRow = {
    source: entry.source,
    recordSha256: entry.recordSha256,
    approvedBy: caller.name,
    authenticated: caller.authenticated,
    approvedAt: new Date(now()),
    note: request.note,
    entry,
  };
  await outbox.transaction(async (tx, publish) => {
    await saveApproval(tx, row);
    if (await deleteWithdrawal(tx, row.source)) sayPermitted(publish, settings, row.source);
  });
  return view(entry, row);
}

/**
 * Takes an approval back. What runs goes on; where only approved models may run, no replica that starts afterwards loads it.
 * Throws `notFound` when there is none.
 */
export async function revokeModel(
  { outbox, now }: Pick<World, "outbox" | "now">,
  settings: PermissionSettings,
  source: string,
  caller: Caller,
): Promise<void> {
  const row: WithdrawalRow = {
    source,
    withdrawnBy: caller.name,
    authenticated: caller.authenticated,
    withdrawnAt: new Date(now()),
  };
  await outbox.transaction(async (tx, publish) => {
    if (!(await deleteApproval(tx, source)))
      throw new PlatformError("notFound", `the model ${source} is not approved`, { field: "source" });
    await saveWithdrawal(tx, row);
    sayWithdrawn(publish, settings, row);
  });
}

async function existing({ models }: Pick<World, "models">, source: string): Promise<CatalogueEntry> {
  const entry = await models.find(source);
  if (entry !== null) return entry;
  throw new PlatformError("notFound", `${source} has no record: it was not added by 'pilotlight model add'`, {
    field: "source",
    remedy: "'pilotlight model list' shows what there is; add it first.",
  });
}

const view = (entry: CatalogueEntry, row: ApprovalRow | null): ModelView => ({
  ...entry,
  approval:
    row === null
      ? null
      : {
          by: row.approvedBy,
          authenticated: row.authenticated,
          at: row.approvedAt.getTime(),
          note: row.note,
          current: row.recordSha256 === entry.recordSha256,
        },
});
