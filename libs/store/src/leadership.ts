// Leadership: of several instances of a service one acts, the others stand by. A session's advisory lock is the lease: it
// ends with the connection, so a killed leader is replaced as soon as the database notices.
import { setTimeout as sleep } from "node:timers/promises";
import { logger } from "@pilotlight/telemetry";
import type { Sql, Store } from "./store.ts";

export type LeadershipOptions = {
  /** What is led, e.g. `autoscaler`. */
  name: string;
  /** How often a standby asks, and a leader checks that its lease still holds. */
  intervalMs: number;
  signal: AbortSignal;
};

/** How long the goodbye to the database may take. */
const END_TIMEOUT_S = 1;

/**
 * Runs `lead` while this process is the leader. Its signal is aborted when the lease is lost or the service stops. Returns
 * after `options.signal` was aborted.
 */
export async function whileLeader(
  store: Pick<Store, "session">,
  options: LeadershipOptions,
  lead: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  while (!options.signal.aborted) {
    const lost = new AbortController();
    const session = store.session(() => lost.abort());
    try {
      await leadOnce(session, options, AbortSignal.any([options.signal, lost.signal]), lead, lost);
    } catch (error) {
      if (!options.signal.aborted)
        logger("leadership").warn("leadership interrupted", { name: options.name, error });
    }
    await session.end({ timeout: END_TIMEOUT_S }).catch(() => {});
    await sleep(options.intervalMs, undefined, { signal: options.signal }).catch(() => {});
  }
}

/** One term: waits for the lease, leads, and returns when the lease is lost, or throws when leading failed. */
async function leadOnce(
  session: Sql,
  options: LeadershipOptions,
  signal: AbortSignal,
  lead: (signal: AbortSignal) => Promise<void>,
  lost: AbortController,
): Promise<void> {
  const { name, intervalMs } = options;
  while (!(await tryLease(session, name))) {
    await sleep(intervalMs, undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
  }
  if (signal.aborted) return;
  logger("leadership").info("leading", { name });
  const leading = lead(signal);
  try {
    await Promise.race([leading, checkSession(session, intervalMs, signal)]);
  } finally {
    lost.abort();
    await leading.catch(() => {});
  }
}

async function tryLease(session: Sql, name: string): Promise<boolean> {
  const [row] = await session<{ leads: boolean }[]>`
    select pg_try_advisory_lock(hashtextextended(${`pilotlight.leader.${name}`}, 0)) as leads`;
  return row?.leads === true;
}

/** Asks now and then, so that a connection that died silently is noticed. Ends with the signal. */
async function checkSession(session: Sql, intervalMs: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await session`select 1`;
    await sleep(intervalMs, undefined, { signal }).catch(() => {});
  }
}
