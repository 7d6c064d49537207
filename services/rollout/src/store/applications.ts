// Applications as the rollout coordinator knows them: what is wanted, what serves, what was ordered.
import { type ApplicationSpec, ApplicationSpecSchema, fromBinary, toBinary } from "@pilotlight/contracts";
import { readStored, type Sql, type Transaction } from "@pilotlight/store";
import * as z from "zod";
import type { AutoscalerWord } from "../domain/heard.ts";
import { noOrders, type Orders, ordersSchema, type Specs } from "../domain/orders.ts";

export type ApplicationRow = {
  name: string;
  wantedVersion: number | null;
  servingVersion: number | null;
  askedAgain: boolean;
  wayBack: boolean;
  orders: Orders;
  generation: bigint;
};

/**
 * An application, held until the end of the transaction: one step of it at a time. The lock is on the name and not on the
 * row, so that a step also waits for the transaction that makes the row.
 */
export async function lockApplication(tx: Transaction, name: string): Promise<ApplicationRow | null> {
  await tx`select pg_advisory_xact_lock(hashtextextended(${`rollout.application.${name}`}, 0))`;
  const [row] = await tx<ApplicationRow[]>`
    select name, wanted_version as "wantedVersion", serving_version as "servingVersion",
      asked_again as "askedAgain", way_back as "wayBack", orders, generation
    from application where name = ${name}`;
  return row === undefined
    ? null
    : { ...row, orders: readStored(ordersSchema, row.orders, `orders of ${name}`) };
}

/** A wish for a version. False when a later wish is known already. */
export async function askForVersion(
  tx: Transaction,
  wish: { application: string; version: number; wayBack: boolean; spec: ApplicationSpec },
  at: Date,
): Promise<boolean> {
  const rows = await tx`
    insert into application (name, wanted_version, asked_again, way_back, asked_at, orders, generation)
    values (${wish.application}, ${wish.version}, true, ${wish.wayBack}, ${at}, ${tx.json(noOrders)}, 0)
    on conflict (name) do update set
      wanted_version = excluded.wanted_version, asked_again = true, way_back = excluded.way_back,
      asked_at = excluded.asked_at
    where application.asked_at <= excluded.asked_at
    returning 1`;
  await tx`
    insert into version (application, version, spec)
    values (${wish.application}, ${wish.version}, ${Buffer.from(toBinary(ApplicationSpecSchema, wish.spec))})
    on conflict (application, version) do update set spec = excluded.spec`;
  return rows.length > 0;
}

/** Nothing is wanted any more. False when a later wish is known already. */
export async function askForNothing(tx: Transaction, application: string, at: Date): Promise<boolean> {
  const rows = await tx`
    update application set wanted_version = null, serving_version = null, asked_at = ${at}
    where name = ${application} and asked_at <= ${at} returning 1`;
  return rows.length > 0;
}

export const saveApplication = (tx: Transaction, row: ApplicationRow) => tx`
  update application set serving_version = ${row.servingVersion}, asked_again = ${row.askedAgain},
    orders = ${tx.json(row.orders)}, generation = ${row.generation}
  where name = ${row.name}`;

export async function readSpecs(tx: Transaction, application: string): Promise<Specs> {
  const rows = await tx<{ version: number; spec: Buffer }[]>`
    select version, spec from version where application = ${application}`;
  return new Map(rows.map((row) => [row.version, fromBinary(ApplicationSpecSchema, row.spec)]));
}

/** Specifications that nothing can ask for any more without bringing them along again. */
export const deleteSpecsBut = (tx: Transaction, application: string, kept: readonly number[]) =>
  tx`delete from version where application = ${application} and not version = any(${[...kept]}::int[])`;

export async function listApplicationNames(sql: Sql): Promise<string[]> {
  return (await sql<{ name: string }[]>`select name from application order by name`).map((row) => row.name);
}

/** Keeps what the autoscaler said of a deployment, unless something later is known. */
export const saveDemand = (
  tx: Transaction,
  of: { application: string; deployment: string },
  word: AutoscalerWord,
  at: Date,
) => tx`
  insert into demand (application, deployment, replicas, bounds_generation, held, decided_at)
  values (${of.application}, ${of.deployment}, ${word.wanted}, ${word.generation},
    ${tx.json(Object.fromEntries(word.held))}, ${at})
  on conflict (application, deployment) do update set replicas = excluded.replicas,
    bounds_generation = excluded.bounds_generation, held = excluded.held, decided_at = excluded.decided_at
  where demand.decided_at <= excluded.decided_at`;

const heldSchema = z.record(z.string(), z.number());

/** What the autoscaler said last, by deployment. */
export async function readDemand(tx: Transaction, application: string): Promise<Map<string, AutoscalerWord>> {
  const rows = await tx<{ deployment: string; wanted: number; generation: bigint; held: unknown }[]>`
    select deployment, replicas as wanted, bounds_generation as generation, held from demand
    where application = ${application}`;
  return new Map(
    rows.map(({ deployment, wanted, generation, held: stored }) => {
      const held = readStored(heldSchema, stored, `places held of ${application}/${deployment}`);
      return [deployment, { wanted, generation, held: new Map(Object.entries(held)) }];
    }),
  );
}

export const deleteDemand = (tx: Transaction, application: string) =>
  tx`delete from demand where application = ${application}`;
