// The read model of replicas: the living ones, and for a while those that are gone.
import type { ReplicaView } from "@pilotlight/control-api";
import type { Queryable, Sql } from "@pilotlight/store";

/** Writes the latest view of each replica. An unchanged one is left alone. */
export const saveReplicas = (sql: Sql, views: readonly ReplicaView[]) => sql`
  insert into replica (replica_id, application, version, deployment, node_id, view, updated_at, gone_at)
  select view ->> 'replicaId', view ->> 'application', (view ->> 'version')::int, view ->> 'deployment',
    view ->> 'nodeId', view, at, case when view ->> 'phase' = 'gone' then at end
  from jsonb_array_elements(${sql.json([...views])}::jsonb) as view
  cross join lateral to_timestamp((view ->> 'updatedAt')::double precision / 1000) as at
  on conflict (replica_id) do update set
    view = excluded.view, node_id = excluded.node_id, updated_at = excluded.updated_at, gone_at = excluded.gone_at
  where replica.view is distinct from excluded.view`;

/** Living replicas that no document speaks of any more are gone: nobody knows why. */
export const retireUnknown = (sql: Sql, known: readonly string[], now: Date) => sql`
  update replica set gone_at = ${now}, updated_at = ${now}, view = view || '{"phase": "gone"}'
  where gone_at is null and not replica_id = any(${[...known]}::text[])`;

/** A lost node takes its replicas along. */
export const retireNode = (sql: Queryable, nodeId: string, now: Date) => sql`
  update replica set gone_at = ${now}, updated_at = ${now},
    view = view || '{"phase": "gone", "goneReason": "nodeLost"}'
  where gone_at is null and node_id = ${nodeId}`;

export async function findReplica(sql: Sql, replicaId: string): Promise<ReplicaView | null> {
  const [row] = await sql<{ view: ReplicaView }[]>`select view from replica where replica_id = ${replicaId}`;
  return row?.view ?? null;
}

/** Living replicas of every application, or of one. */
export async function listLiving(sql: Sql, application: string | null): Promise<ReplicaView[]> {
  const rows = await sql<{ view: ReplicaView }[]>`
    select view from replica where gone_at is null and (${application}::text is null or application = ${application})
    order by replica_id`;
  return rows.map((row) => row.view);
}

/** Replicas of one application, living or gone, latest start first. */
export async function listLatest(sql: Sql, application: string, limit: number): Promise<ReplicaView[]> {
  const rows = await sql<{ view: ReplicaView }[]>`
    select view from replica where application = ${application}
    order by (view -> 'marks' -> 0 ->> 'at')::double precision desc nulls last limit ${limit}`;
  return rows.map((row) => row.view);
}

export const deleteGoneBefore = (sql: Sql, before: Date) =>
  sql`delete from replica where gone_at < ${before}`;
