// The read model of rollouts: one row each, with its story.
import type { RolloutView } from "@pilotlight/control-api";
import type { Queryable, Sql, Transaction } from "@pilotlight/store";

type Row = Omit<RolloutView, "startedAt" | "endedAt"> & { startedAt: Date; endedAt: Date | null };

const ROLLOUT = (sql: Queryable) => sql`
  rollout_id as "rolloutId", application, from_version as "fromVersion", to_version as "toVersion", phase, traffic,
  reason, steps, started_at as "startedAt", ended_at as "endedAt"`;

const view = (row: Row): RolloutView => ({
  ...row,
  startedAt: row.startedAt.getTime(),
  endedAt: row.endedAt?.getTime() ?? null,
});

/** A rollout, locked until the end of the transaction. */
export async function lockRollout(tx: Transaction, rolloutId: string): Promise<RolloutView | null> {
  const [row] = await tx<
    Row[]
  >`select ${ROLLOUT(tx)} from rollout where rollout_id = ${rolloutId} for update`;
  return row === undefined ? null : view(row);
}

export const saveRollout = (tx: Transaction, rollout: RolloutView) => tx`
  insert into rollout (rollout_id, application, from_version, to_version, phase, traffic, reason, steps, started_at,
    moved_at, ended_at)
  values (${rollout.rolloutId}, ${rollout.application}, ${rollout.fromVersion}, ${rollout.toVersion},
    ${rollout.phase}, ${rollout.traffic}, ${rollout.reason}, ${tx.json(rollout.steps)},
    ${new Date(rollout.startedAt)}, ${new Date(rollout.steps.at(-1)?.at ?? rollout.startedAt)},
    ${rollout.endedAt === null ? null : new Date(rollout.endedAt)})
  on conflict (rollout_id) do update set
    phase = excluded.phase, traffic = excluded.traffic, reason = excluded.reason, steps = excluded.steps,
    moved_at = excluded.moved_at, ended_at = excluded.ended_at`;

/** Rollouts of every application, or of one, newest first. */
export async function listRollouts(
  sql: Sql,
  application: string | null,
  limit: number,
): Promise<RolloutView[]> {
  const rows = await sql<Row[]>`
    select ${ROLLOUT(sql)} from rollout where ${application}::text is null or application = ${application}
    order by started_at desc limit ${limit}`;
  return rows.map(view);
}

/** The newest rollout of each application. */
export async function latestRollouts(sql: Sql): Promise<Map<string, RolloutView>> {
  const rows = await sql<Row[]>`
    select distinct on (application) ${ROLLOUT(sql)} from rollout order by application, started_at desc`;
  return new Map(rows.map((row) => [row.application, view(row)]));
}

export const deleteEndedBefore = (sql: Sql, before: Date) =>
  sql`delete from rollout where ended_at < ${before}`;
