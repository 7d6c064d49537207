// Leadership: of several instances of a service one acts, the others stand by. A session's advisory lock is the lease: it
// ends with the connection, so a killed leader is replaced as soon as the database notices.
import { setTimeout as sleep } from "node:timers/promises";
import { logger } from "@pilotlight/telemetry";
import type { Sql } from "./store.ts";

export type LeadershipOptions = {
  /** What is led, e.g. `autoscaler`. */
  name: string;
  /** How often a standby asks, and a leader checks that its lease still holds. */
  intervalMs: number;
  signal: AbortSignal;
};

/**
 * Runs `lead` while this process is the leader. Its signal is aborted when the lease is lost or the service stops. Returns
 * after `options.signal` was aborted.
 */
export async function whileLeader(
  sql: Sql,
  options: LeadershipOptions,
  lead: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const log = logger("leadership");
  while (!options.signal.aborted) {
    try {
      await tryToLead(sql, options, lead);
    } catch (error) {
      if (!options.signal.aborted) log.warn("leadership interrupted", { name: options.name, error });
    }
    await sleep(options.intervalMs, undefined, { signal: options.signal }).catch(() => {});
  }
}

async function tryToLead(
  sql: Sql,
  options: LeadershipOptions,
  lead: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const connection = await sql.reserve();
  try {
    const [row] = await connection<{ leads: boolean }[]>`
      select pg_try_advisory_lock(hashtextextended(${`pilotlight.leader.${options.name}`}, 0)) as leads`;
    if (row?.leads !== true) return;
    logger("leadership").info("leading", { name: options.name });
    const lost = new AbortController();
    const signal = AbortSignal.any([options.signal, lost.signal]);
    const leading = lead(signal);
    try {
      await Promise.race([leading, holdLease(connection, options.intervalMs, signal)]);
    } finally {
      lost.abort();
      await leading.catch(() => {});
      await connection`select pg_advisory_unlock(hashtextextended(${`pilotlight.leader.${options.name}`}, 0))`.catch(
        () => {},
      );
    }
  } finally {
    connection.release();
  }
}

/** Rejects when the connection, and with it the lock, is gone. */
async function holdLease(
  connection: Awaited<ReturnType<Sql["reserve"]>>,
  intervalMs: number,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await connection`select 1`;
    await sleep(intervalMs, undefined, { signal }).catch(() => {});
  }
}
