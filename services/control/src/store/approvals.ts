// Approvals of models.
import type { CatalogueEntry } from "@pilotlight/models/catalogue-entry";
import type { Queryable } from "@pilotlight/store";

export type ApprovalRow = {
  source: string;
  recordSha256: string;
  approvedBy: string;
  authenticated: boolean;
  approvedAt: Date;
  note: string;
  entry: CatalogueEntry;
};

const APPROVAL = (sql: Queryable) => sql`
  source, record_sha256 as "recordSha256", approved_by as "approvedBy", authenticated,
  approved_at as "approvedAt", note, entry`;

export async function findApproval(sql: Queryable, source: string): Promise<ApprovalRow | null> {
  const [row] = await sql<
    ApprovalRow[]
  >`select ${APPROVAL(sql)} from model_approval where source = ${source}`;
  return row ?? null;
}

export const listApprovals = (sql: Queryable, limit: number) =>
  sql<ApprovalRow[]>`select ${APPROVAL(sql)} from model_approval order by source limit ${limit}`;

/** The latest approval of a source counts. */
export const saveApproval = (sql: Queryable, row: ApprovalRow) => sql`
  insert into model_approval (source, record_sha256, approved_by, authenticated, approved_at, note, entry)
  values (${row.source}, ${row.recordSha256}, ${row.approvedBy}, ${row.authenticated}, ${row.approvedAt},
          ${row.note}, ${sql.json(row.entry)})
  on conflict (source) do update set record_sha256 = excluded.record_sha256, approved_by = excluded.approved_by,
    authenticated = excluded.authenticated, approved_at = excluded.approved_at, note = excluded.note,
    entry = excluded.entry`;

/** False when there was none. */
export async function deleteApproval(sql: Queryable, source: string): Promise<boolean> {
  const gone = await sql`delete from model_approval where source = ${source} returning source`;
  return gone.length > 0;
}
