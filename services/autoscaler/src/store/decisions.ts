// Decision records: why it did what it did, for as long as they are kept.
import type { Queryable, Sql, Transaction } from "@pilotlight/store";

export type DecisionRow = {
  decisionId: string;
  application: string;
  deployment: string;
  version: number;
  at: Date;
  replicasBefore: number;
  replicasWanted: number;
  reason: string;
  record: string;
};

const DECISION = (sql: Queryable) => sql`
  decision_id as "decisionId", application, deployment, version, at, replicas_before as "replicasBefore",
  replicas_wanted as "replicasWanted", reason, record`;

export const insertDecision = (tx: Transaction, row: DecisionRow) => tx`
  insert into decision (decision_id, application, deployment, version, at, replicas_before, replicas_wanted, reason,
    record)
  values (${row.decisionId}, ${row.application}, ${row.deployment}, ${row.version}, ${row.at}, ${row.replicasBefore},
    ${row.replicasWanted}, ${row.reason}, ${row.record})`;

/** Decisions of every application, or of one, newest first. */
export const listDecisions = (sql: Sql, application: string | null, limit: number) =>
  application === null
    ? sql<DecisionRow[]>`select ${DECISION(sql)} from decision order by at desc limit ${limit}`
    : sql<DecisionRow[]>`
        select ${DECISION(sql)} from decision where application = ${application} order by at desc limit ${limit}`;

export async function findDecision(sql: Sql, decisionId: string): Promise<DecisionRow | null> {
  const [row] = await sql<DecisionRow[]>`
    select ${DECISION(sql)} from decision where decision_id = ${decisionId}`;
  return row ?? null;
}

/** Deletes records from before `before`, and the oldest beyond `max`. */
export async function sweepDecisions(sql: Sql, before: Date, max: number): Promise<void> {
  await sql`delete from decision where at < ${before}`;
  await sql`delete from decision where at < (select at from decision order by at desc offset ${max} limit 1)`;
}
