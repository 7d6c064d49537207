// What the autoscaler decided last, per deployment of a version.
import type { ScaleDecided } from "@pilotlight/contracts";
import type { Sql, Transaction } from "@pilotlight/store";

export type ScaleRow = {
  application: string;
  version: number;
  deployment: string;
  replicasWanted: number;
  reason: string;
};

/** Keeps a decision unless a later one is known. */
export const saveScale = (tx: Transaction, decided: ScaleDecided, at: Date) => tx`
  insert into scale (application, version, deployment, replicas_wanted, reason, decided_at)
  values (${decided.application}, ${decided.version}, ${decided.deployment}, ${decided.replicasWanted},
    ${decided.reason}, ${at})
  on conflict (application, version, deployment) do update set
    replicas_wanted = excluded.replicas_wanted, reason = excluded.reason, decided_at = excluded.decided_at
  where scale.decided_at <= excluded.decided_at`;

export const listScales = (sql: Sql) => sql<ScaleRow[]>`
  select application, version, deployment, replicas_wanted as "replicasWanted", reason from scale`;

export const deleteScales = (tx: Transaction, application: string) =>
  tx`delete from scale where application = ${application}`;
