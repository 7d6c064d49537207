// Which replicas of this node may have which weights: what their assignments said, written down, because the order comes once
// and a streamer may start anew while its replicas go on.
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";

/** Replicas remembered; the oldest are forgotten. A node's replicas of many days. */
const REPLICAS_MAX = 10_000;

export class Assignments {
  readonly #database: DatabaseSync;
  #change = Promise.withResolvers<void>();

  constructor(file: string) {
    mkdirSync(dirname(file), { recursive: true, mode: 0o750 });
    this.#database = new DatabaseSync(file);
    this.#database.exec(`
      pragma journal_mode = wal;
      create table if not exists assignment (
        number integer primary key autoincrement,
        replica_id text not null unique,
        source text not null
      )`);
  }

  /** Taken twice it is the same. */
  assigned(replicaId: string, source: string): void {
    this.#database
      .prepare(
        "insert into assignment (replica_id, source) values (?, ?) on conflict (replica_id) do update set source = excluded.source",
      )
      .run(replicaId, source);
    this.#database
      .prepare("delete from assignment where number <= (select max(number) from assignment) - ?")
      .run(REPLICAS_MAX);
    const { resolve } = this.#change;
    this.#change = Promise.withResolvers();
    resolve();
  }

  /** Resolves with the next assignment of any replica. */
  changed(): Promise<void> {
    return this.#change.promise;
  }

  /** Undefined for a replica that this node was never given. */
  sourceOf(replicaId: string): string | undefined {
    const row = this.#database.prepare("select source from assignment where replica_id = ?").get(replicaId);
    return row === undefined ? undefined : String(row.source);
  }

  close(): void {
    this.#database.close();
  }
}
