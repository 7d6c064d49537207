// Rollouts with their plan, their state and their story.
import {
  type RolloutPlan,
  type RolloutState,
  rolloutPlanSchema,
  rolloutStateSchema,
} from "@pilotlight/policy";
import { type Queryable, readStored, type Sql, type Transaction } from "@pilotlight/store";
import type { Telling } from "../domain/story.ts";

export type RolloutRow = {
  rolloutId: string;
  application: string;
  fromVersion: number | null;
  toVersion: number;
  plan: RolloutPlan;
  state: RolloutState;
  startedAt: Date;
  endedAt: Date | null;
};
export type StepRow = { rolloutId: string; at: Date; phase: number; traffic: number; reason: string };

const ROLLOUT = (sql: Queryable) => sql`
  rollout_id as "rolloutId", application, from_version as "fromVersion", to_version as "toVersion", plan, state,
  started_at as "startedAt", ended_at as "endedAt"`;

/** The newest rollout of an application. Its row is held by the lock on the application. */
export async function findLatestRollout(tx: Transaction, application: string): Promise<RolloutRow | null> {
  const [row] = await tx<RolloutRow[]>`
    select ${ROLLOUT(tx)} from rollout where application = ${application} order by started_at desc limit 1`;
  return row === undefined ? null : checked(row);
}

const checked = (row: RolloutRow): RolloutRow => ({
  ...row,
  plan: readStored(rolloutPlanSchema, row.plan, `plan of rollout ${row.rolloutId}`),
  state: readStored(rolloutStateSchema, row.state, `state of rollout ${row.rolloutId}`),
});

/** Writes a rollout, new or moved. */
export const saveRollout = (tx: Transaction, row: RolloutRow) => tx`
  insert into rollout (rollout_id, application, from_version, to_version, plan, state, started_at, ended_at)
  values (${row.rolloutId}, ${row.application}, ${row.fromVersion}, ${row.toVersion}, ${tx.json(row.plan)},
    ${tx.json(row.state)}, ${row.startedAt}, ${row.endedAt})
  on conflict (rollout_id) do update set state = excluded.state, ended_at = excluded.ended_at`;

export const addStep = (tx: Transaction, rolloutId: string, step: Telling, at: Date) => tx`
  insert into step (rollout_id, at, phase, traffic, reason)
  values (${rolloutId}, ${at}, ${step.phase}, ${step.traffic}, ${step.reason})`;

/** Rollouts of every application, or of one, newest first. */
export const listRollouts = (sql: Sql, application: string | null, limit: number) =>
  sql<RolloutRow[]>`
    select ${ROLLOUT(sql)} from rollout where ${application}::text is null or application = ${application}
    order by started_at desc limit ${limit}`;

export const listSteps = (sql: Sql, rolloutIds: readonly string[]) =>
  sql<StepRow[]>`
    select rollout_id as "rolloutId", at, phase, traffic, reason from step
    where rollout_id = any(${[...rolloutIds]}::text[]) order by rollout_id, position`;

/** Deletes what is over for long, except each application's latest: it says what was tried last. */
export const deleteEndedBefore = (sql: Sql, before: Date) => sql`
  delete from rollout where ended_at < ${before} and exists (
    select 1 from rollout as newer
    where newer.application = rollout.application and newer.started_at > rollout.started_at)`;
