// Transactions whose connection breaks. postgres.js up to 3.4.9 ends the whole process when something is sent on a pinned
// connection that is gone (https://github.com/porsager/postgres/issues/1208), and it sends `rollback` or `commit` itself
// when the work of a transaction is over. So once the connection is lost the work is never over: it is left where it
// stands, nothing more is sent, and the transaction fails by the loss itself. The server has rolled it back by then.
import { PlatformError } from "@pilotlight/errors";
import type { Sql, Transaction } from "./store.ts";

/** Runs `work` in a transaction; fails, and lets the process live, when the connection is lost in the middle. */
export function transactionOutliving<T>(sql: Sql, work: (tx: Transaction) => Promise<T>): Promise<T> {
  let lost = false;
  const running = sql.begin((tx) =>
    work(whileConnected(tx, () => lost)).then(
      (value) => (lost ? never<T>() : value),
      (error) => (lost || isLoss(error) ? never<T>() : Promise.reject(error)),
    ),
  ) as Promise<T>;
  running.catch(() => {
    lost = true;
  });
  return running;
}

const never = <T>() => new Promise<T>(() => {});

/** The transaction's queries, refused once the connection is gone. */
function whileConnected(tx: Transaction, isLost: () => boolean): Transaction {
  return new Proxy(tx, {
    apply(target, self, args) {
      if (isLost())
        throw new PlatformError("unavailable", "the connection to the database was lost in a transaction");
      return Reflect.apply(target, self, args);
    },
  });
}

/** A query that failed with its connection. Queries mark their errors; those of other work are not meant. */
const isLoss = (error: unknown): boolean =>
  error instanceof Error &&
  "query" in error &&
  /^(CONNECTION_|ECONN|EPIPE|ETIMEDOUT)/.test(String((error as { code?: unknown }).code));
