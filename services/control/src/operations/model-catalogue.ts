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

type Catalogue = Pick<World, "models" | "store" | "now">;

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

/** Approves what the source holds now, in the caller's name. */
export async function approveModel(
  { models, store, now }: Catalogue,
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
  await saveApproval(store.sql, row);
  return view(entry, row);
}

/** Takes an approval back; what runs goes on. Throws `notFound` when there is none. */
export async function revokeModel({ store }: Pick<World, "store">, source: string): Promise<void> {
  if (await deleteApproval(store.sql, source)) return;
  throw new PlatformError("notFound", `the model ${source} is not approved`, { field: "source" });
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
