// What is remembered of each deployment between two decisions.
import type { AutoscalingState } from "@pilotlight/policy";
import type { Sql, Transaction } from "@pilotlight/store";
import type { Said } from "../domain/saying.ts";

export type DeploymentRow = { application: string; deployment: string; state: AutoscalingState; said: Said };

export const readDeployments = (sql: Sql) =>
  sql<DeploymentRow[]>`select application, deployment, state, said from deployment`;

export const saveDeployment = (tx: Transaction, row: DeploymentRow) => tx`
  insert into deployment (application, deployment, state, said)
  values (${row.application}, ${row.deployment}, ${tx.json(row.state)}, ${tx.json(row.said)})
  on conflict (application, deployment) do update set state = excluded.state, said = excluded.said`;

export const deleteDeployment = (tx: Transaction, of: { application: string; deployment: string }) =>
  tx`delete from deployment where application = ${of.application} and deployment = ${of.deployment}`;
