// How long the latest starts of each deployment took.
import type { Sql, Transaction } from "@pilotlight/store";

export type ColdStart = {
  replicaId: string;
  application: string;
  deployment: string;
  durationMs: number;
  readyAt: number;
};

/** The newest of each deployment, oldest first. */
export const readColdStarts = (sql: Sql, perDeployment: number) =>
  sql<{ application: string; deployment: string; durationMs: number }[]>`
    select application, deployment, duration_ms as "durationMs" from (
      select *, row_number() over (partition by application, deployment order by ready_at desc) as place
      from cold_start) as ranked
    where place <= ${perDeployment} order by ready_at`;

/** Adds a cold start and forgets the oldest beyond `kept`. */
export async function saveColdStart(tx: Transaction, start: ColdStart, kept: number): Promise<void> {
  await tx`
    insert into cold_start (replica_id, application, deployment, duration_ms, ready_at)
    values (${start.replicaId}, ${start.application}, ${start.deployment}, ${start.durationMs},
      ${new Date(start.readyAt)})
    on conflict do nothing`;
  await tx`
    delete from cold_start where application = ${start.application} and deployment = ${start.deployment}
      and ready_at < (
        select ready_at from cold_start where application = ${start.application} and deployment = ${start.deployment}
        order by ready_at desc offset ${kept - 1} limit 1)`;
}
