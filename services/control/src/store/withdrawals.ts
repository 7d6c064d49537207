// Approvals of models that were taken back.
import type { Queryable } from "@pilotlight/store";

export type WithdrawalRow = {
  source: string;
  withdrawnBy: string;
  authenticated: boolean;
  withdrawnAt: Date;
};

export const listWithdrawals = (sql: Queryable) =>
  sql<WithdrawalRow[]>`
    select source, withdrawn_by as "withdrawnBy", authenticated, withdrawn_at as "withdrawnAt"
    from model_withdrawal order by source`;

export const saveWithdrawal = (sql: Queryable, row: WithdrawalRow) => sql`
  insert into model_withdrawal (source, withdrawn_by, authenticated, withdrawn_at)
  values (${row.source}, ${row.withdrawnBy}, ${row.authenticated}, ${row.withdrawnAt})
  on conflict (source) do update set withdrawn_by = excluded.withdrawn_by, authenticated = excluded.authenticated,
    withdrawn_at = excluded.withdrawn_at`;

/** False when there was none. */
export async function deleteWithdrawal(sql: Queryable, source: string): Promise<boolean> {
  const gone = await sql`delete from model_withdrawal where source = ${source} returning source`;
  return gone.length > 0;
}
