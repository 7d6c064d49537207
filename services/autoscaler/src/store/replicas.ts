// The places that are taken.
import { readStored, type Sql, type Transaction } from "@pilotlight/store";
import * as z from "zod";
import type { ReplicaRow } from "../domain/replica.ts";

type Stored = Omit<ReplicaRow, "devices" | "decidedAt" | "stagedAt" | "readyAt"> & {
  devices: unknown;
  decidedAt: Date;
  stagedAt: Date;
  readyAt: Date | null;
};

const devicesSchema = z.array(z.strictObject({ index: z.number(), share: z.number() }));

/** Every place. One that cannot be read is nobody's to give away: this throws then. */
export async function readReplicas(sql: Sql): Promise<ReplicaRow[]> {
  const rows = await sql<Stored[]>`
    select replica_id as "replicaId", application, deployment, version, stage, node_id as "nodeId", devices,
      memory_mib as "memoryMib", decided_at as "decidedAt", staged_at as "stagedAt", ready_at as "readyAt"
    from replica`;
  return rows.map((row) => ({
    ...row,
    devices: readStored(devicesSchema, row.devices, `place of ${row.replicaId}`),
    decidedAt: row.decidedAt.getTime(),
    stagedAt: row.stagedAt.getTime(),
    readyAt: row.readyAt?.getTime() ?? null,
  }));
}

export const saveReplica = (tx: Transaction, row: ReplicaRow) => tx`
  insert into replica (replica_id, application, deployment, version, stage, node_id, devices, memory_mib, decided_at,
    staged_at, ready_at)
  values (${row.replicaId}, ${row.application}, ${row.deployment}, ${row.version}, ${row.stage}, ${row.nodeId},
    ${tx.json(row.devices)}, ${row.memoryMib}, ${new Date(row.decidedAt)}, ${new Date(row.stagedAt)},
    ${row.readyAt === null ? null : new Date(row.readyAt)})
  on conflict (replica_id) do update set
    stage = excluded.stage, node_id = excluded.node_id, devices = excluded.devices, staged_at = excluded.staged_at,
    ready_at = excluded.ready_at`;

export const deleteReplicas = (tx: Transaction, replicaIds: readonly string[]) =>
  tx`delete from replica where replica_id = any(${[...replicaIds]}::text[])`;
