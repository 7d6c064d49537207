// The transactional outbox (I7, way out): a message is committed together with what it tells of, and sent afterwards.
//   O1. What was committed is sent at least once, in the order of commit; the message ID lets the server drop repeats.
//   O2. The relay is woken by each commit in this process; a sweep finds what a killed process left behind.
//   O3. One relay a schema at a time (advisory lock), so that two instances do not reorder.
import { setTimeout as sleep } from "node:timers/promises";
import type { EventType } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import type { Store, Transaction } from "@pilotlight/store";
import { gauge, logger } from "@pilotlight/telemetry";
import type { Bus } from "./connection.ts";
import { type Envelope, type InitOf, pack } from "./envelope.ts";
import { publishEnvelope } from "./publish.ts";

export type OutboxOptions = {
  /** How often to look for rows that nobody announced. */
  sweepIntervalMs: number;
  /** Rows sent together. */
  batchMax: number;
};

/** Adds a message to the running transaction. */
export type PublishInTransaction = <T extends EventType>(
  type: T,
  message: InitOf<T>,
  options?: { id?: string; ttlMs?: number },
) => void;

export type Outbox = {
  /** Runs `work` in a transaction; what it publishes goes out if and only if it commits. */
  transaction<T>(work: (tx: Transaction, publish: PublishInTransaction) => Promise<T>): Promise<T>;
  /** Tells the relay that rows were committed. For transactions that were not made by `transaction`. */
  notify(): void;
  /** Stops the relay after the batch in hand. */
  close(): Promise<void>;
};

type Row = Envelope & { ttlMs: number | undefined };

const backlog = gauge({ name: "pilotlight_outbox_backlog", help: "Rows seen waiting at the last look." });

/** Starts the relay of a service's outbox. */
export function startOutbox(store: Store, bus: Bus, options: OutboxOptions): Outbox {
  const stopper = new AbortController();
  let wake: () => void = () => {};
  let announced = true; // rows of an earlier process
  const notify = () => {
    announced = true;
    wake();
  };
  const running = relayLoop();

  async function relayLoop(): Promise<void> {
    const log = logger("outbox");
    while (!stopper.signal.aborted) {
      if (!announced) {
        const woken = new Promise<void>((resolve) => {
          wake = resolve;
        });
        const timer = new AbortController();
        await Promise.race([
          woken,
          sleep(options.sweepIntervalMs, undefined, { signal: timer.signal }).catch(() => {}),
        ]);
        timer.abort();
      }
      announced = false;
      try {
        while (
          (await relayBatch(store, bus, options.batchMax)) === options.batchMax &&
          !stopper.signal.aborted
        );
      } catch (error) {
        if (stopper.signal.aborted) return;
        log.warn("outbox relay will try again", { error: toPlatformError(error) });
        await sleep(options.sweepIntervalMs / 4, undefined, { signal: stopper.signal }).catch(() => {});
        announced = true;
      }
    }
  }

  return {
    async transaction(work) {
      const rows: Row[] = [];
      const result = await store.transaction(async (tx) => {
        const value = await work(tx, (type, message, extra = {}) => {
          rows.push({ ...pack(bus.service, type, message, extra.id), ttlMs: extra.ttlMs });
        });
        await insertRows(tx, rows);
        return value;
      });
      if (rows.length > 0) notify();
      return result;
    },
    notify,
    async close() {
      stopper.abort();
      wake();
      await running;
    },
  };
}

/** Writes messages into the outbox of the running transaction, in order. */
export async function insertRows(tx: Transaction, rows: readonly Row[]): Promise<void> {
  if (rows.length === 0) return;
  // One array a column, whatever the number of rows: one prepared statement. Arrays of bytea travel as base64.
  // An ID that is already waiting is the same fact again: once is enough.
  await tx`
    insert into outbox (id, subject, headers, payload, ttl_ms)
    select id, subject, headers::jsonb, decode(payload, 'base64'), ttl_ms
    from unnest(
      ${rows.map((row) => row.id)}::text[],
      ${rows.map((row) => row.subject)}::text[],
      ${rows.map((row) => JSON.stringify(row.headers))}::text[],
      ${rows.map((row) => Buffer.from(row.payload).toString("base64"))}::text[],
      ${rows.map((row) => row.ttlMs ?? null) as number[]}::int[]
    ) as message (id, subject, headers, payload, ttl_ms)
    on conflict (id) do nothing`;
}

type StoredRow = {
  position: bigint;
  id: string;
  subject: string;
  headers: Record<string, string>;
  payload: Buffer;
  ttl_ms: number | null;
};

/** Sends up to `batchMax` rows and deletes them. Gives how many. */
async function relayBatch(store: Store, bus: Bus, batchMax: number): Promise<number> {
  return store.transaction(async (tx) => {
    // A deletion that a crash of the database forgets is only sent again (O1): nobody waits for its disk. Who commits a
    // fact anew while it is on its way waits until it is sent.
    await tx`select pg_advisory_xact_lock(hashtextextended(current_schema() || '.outbox', 0)),
      set_config('synchronous_commit', 'off', true)`;
    const rows = await tx<StoredRow[]>`
      delete from outbox where position in (select position from outbox order by position limit ${batchMax})
      returning position, id, subject, headers, payload, ttl_ms`;
    backlog.set(rows.length);
    rows.sort((a, b) => (a.position < b.position ? -1 : 1));
    // Sent in order over one connection, acknowledged together; if one is not, all stay.
    await Promise.all(rows.map((row) => publishEnvelope(bus, row, row.ttl_ms ?? undefined)));
    return rows.length;
  });
}

export type { Row as OutboxRow };
