// Forward-only migrations: numbered SQL files, each applied once in a transaction of its own, under an advisory lock so
// that replicas of a service that start together do not race. A file that was applied must never change.
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import type { Sql } from "./store.ts";

export type Migration = { name: string; sql: string };

const NAME = /^\d{4}_[a-z0-9_]+\.sql$/;

/** Reads a service's migrations, in order. */
export async function readMigrations(folder: URL): Promise<Migration[]> {
  const path = fileURLToPath(folder);
  const names = (await readdir(path)).filter((name) => name.endsWith(".sql")).sort();
  for (const name of names) {
    if (!NAME.test(name))
      throw new PlatformError(
        "invalidArgument",
        `migration '${name}' is not named like 0001_what_it_does.sql`,
      );
  }
  return Promise.all(names.map(async (name) => ({ name, sql: await readFile(join(path, name), "utf8") })));
}

const digest = (text: string) => createHash("sha256").update(text).digest("hex");

/** Applies what is missing. Refuses a changed file and a database that is newer than this program. */
export async function migrate(sql: Sql, schema: string, migrations: readonly Migration[]): Promise<void> {
  const connection = await sql.reserve();
  try {
    await connection`select pg_advisory_lock(hashtextextended(${`pilotlight.migrate.${schema}`}, 0))`;
    await connection`create schema if not exists ${connection(schema)}`;
    await connection`
      create table if not exists ${connection(schema)}.migration (
        name text primary key, digest text not null, applied_at timestamptz not null default now())`;
    const applied = await connection<{ name: string; digest: string }[]>`
      select name, digest from ${connection(schema)}.migration order by name`;
    checkHistory(schema, applied, migrations);
    for (const migration of migrations.slice(applied.length)) {
      // By hand, since the lock sits on this connection.
      await connection`begin`;
      try {
        await connection.unsafe(migration.sql);
        await connection`insert into ${connection(schema)}.migration (name, digest) values (${migration.name}, ${digest(migration.sql)})`;
        await connection`commit`;
      } catch (error) {
        await connection`rollback`;
        throw new PlatformError(
          "internal",
          `migration ${schema}/${migration.name} failed: ${(error as Error).message}`,
          { cause: error },
        );
      }
      logger("store").info("migrated", { schema, migration: migration.name });
    }
  } finally {
    await connection`select pg_advisory_unlock(hashtextextended(${`pilotlight.migrate.${schema}`}, 0))`.catch(
      () => {},
    );
    connection.release();
  }
}

function checkHistory(
  schema: string,
  applied: readonly { name: string; digest: string }[],
  known: readonly Migration[],
): void {
  for (const [index, row] of applied.entries()) {
    const migration = known[index];
    if (migration === undefined || migration.name !== row.name) {
      throw new PlatformError(
        "preconditionFailed",
        `schema ${schema} has migration ${row.name}, which this program does not know`,
        {
          remedy: "Run the newer version of the service; migrations only go forward.",
        },
      );
    }
    if (digest(migration.sql) !== row.digest) {
      throw new PlatformError(
        "preconditionFailed",
        `migration ${schema}/${row.name} was changed after it was applied`,
        {
          remedy: "Restore the file, and put the change into a new migration.",
        },
      );
    }
  }
}
