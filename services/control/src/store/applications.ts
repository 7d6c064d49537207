// Applications and their versions: what teams want.

import type { Application } from "@pilotlight/spec";
import type { Queryable, Transaction } from "@pilotlight/store";

export type ApplicationRow = {
  name: string;
  createdAt: Date;
  deletedAt: Date | null;
  nextVersion: number;
  wantedVersion: number | null;
  servingVersion: number | null;
};

export type VersionRow = {
  application: string;
  version: number;
  spec: Application;
  digest: string;
  createdAt: Date;
  servedAt: Date | null;
};

/** One change of what is wanted at a time: model names are unique over all applications. Held to the end of `tx`. */
export async function lockWanted(tx: Transaction): Promise<void> {
  await tx`select pg_advisory_xact_lock(hashtextextended('control.wanted', 0))`;
}

const APPLICATION = (sql: Queryable) => sql`
  name, created_at as "createdAt", deleted_at as "deletedAt", next_version as "nextVersion",
  wanted_version as "wantedVersion", serving_version as "servingVersion"`;

/** An application, deleted ones included. */
export async function findApplication(sql: Queryable, name: string): Promise<ApplicationRow | null> {
  const [row] = await sql<ApplicationRow[]>`select ${APPLICATION(sql)} from application where name = ${name}`;
  return row ?? null;
}

/** All applications that are not deleted, by name. */
export const listApplications = (sql: Queryable) =>
  sql<ApplicationRow[]>`select ${APPLICATION(sql)} from application where deleted_at is null order by name`;

const VERSION = (sql: Queryable) => sql`
  application, version, spec, digest, created_at as "createdAt", served_at as "servedAt"`;

export async function findVersion(
  sql: Queryable,
  application: string,
  version: number,
): Promise<VersionRow | null> {
  const [row] = await sql<VersionRow[]>`
    select ${VERSION(sql)} from version where application = ${application} and version = ${version}`;
  return row ?? null;
}

/** The newest versions of an application, newest first. */
export const listVersions = (sql: Queryable, application: string, limit: number) =>
  sql<VersionRow[]>`
    select ${VERSION(sql)} from version where application = ${application} order by version desc limit ${limit}`;

/** The version other than `except` that served last. */
export async function findServedBefore(
  sql: Queryable,
  application: string,
  except: number | null,
): Promise<VersionRow | null> {
  const [row] = await sql<VersionRow[]>`
    select ${VERSION(sql)} from version
    where application = ${application} and served_at is not null and version is distinct from ${except}
    order by served_at desc limit 1`;
  return row ?? null;
}

/** Which of `names` another application answers to already. */
export const modelsOfOthers = (sql: Queryable, application: string, names: readonly string[]) =>
  sql<{ application: string; model: string }[]>`
    select distinct a.name as application, deployment -> 'model' ->> 'name' as model
    from application a
    join version v on v.application = a.name and v.version in (a.wanted_version, a.serving_version)
    cross join jsonb_array_elements(v.spec -> 'deployments') as deployment
    where a.deleted_at is null and a.name <> ${application}
      and deployment -> 'model' ->> 'name' = any(${[...names]}::text[])`;

/** Adds the next version, and the application if it is new or was deleted; the version is wanted from now on. */
export async function insertVersion(
  tx: Transaction,
  version: { application: string; spec: Application; digest: string },
  now: Date,
): Promise<number> {
  const [row] = await tx<{ version: number }[]>`
    insert into application (name, created_at, next_version, wanted_version)
    values (${version.application}, ${now}, 2, 1)
    on conflict (name) do update set
      created_at = case when application.deleted_at is null then application.created_at else excluded.created_at end,
      deleted_at = null, wanted_version = application.next_version, next_version = application.next_version + 1
    returning wanted_version as version`;
  if (row === undefined) throw new Error("insert returned no row");
  await tx`
    insert into version (application, version, spec, digest, created_at)
    values (${version.application}, ${row.version}, ${tx.json(version.spec)}, ${version.digest}, ${now})`;
  return row.version;
}

export const setWanted = (tx: Transaction, application: string, version: number) =>
  tx`update application set wanted_version = ${version} where name = ${application}`;

export const markDeleted = (tx: Transaction, application: string, now: Date) =>
  tx`update application set deleted_at = ${now}, wanted_version = null, serving_version = null
     where name = ${application}`;

/** A rollout has brought a version to all traffic. */
export async function noteServing(
  tx: Transaction,
  application: string,
  version: number,
  now: Date,
): Promise<void> {
  await tx`update application set serving_version = ${version} where name = ${application} and deleted_at is null`;
  await tx`update version set served_at = ${now} where application = ${application} and version = ${version}`;
}

/** A rollout was undone: what was wanted is what served before, unless something else was asked for meanwhile. */
export const noteRolledBack = (tx: Transaction, application: string, to: number, from: number | null) =>
  tx`update application set wanted_version = ${from}
     where name = ${application} and wanted_version = ${to} and deleted_at is null`;
