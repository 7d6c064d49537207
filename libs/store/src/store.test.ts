import { setTimeout as sleep } from "node:timers/promises";
import { startTestPostgres, type TestPostgres } from "@pilotlight/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStore, type StoreOptions, whileLeader } from "./index.ts";

let server: TestPostgres;
beforeAll(async () => {
  server = await startTestPostgres();
});
afterAll(() => server.stop());

const MIGRATIONS = [
  { name: "0001_items.sql", sql: "create table item (id bigint primary key, note text not null)" },
  { name: "0002_color.sql", sql: "alter table item add column color text" },
];
const open = (url: string, overrides: Partial<StoreOptions> = {}) =>
  openStore({
    url,
    schema: "demo",
    migrations: MIGRATIONS,
    connectionsMax: 3,
    connectTimeoutMs: 15_000,
    ...overrides,
  });

describe("migrations", () => {
  test("racing processes apply each migration once", async () => {
    const url = await server.database();
    const stores = await Promise.all([open(url), open(url), open(url)]);
    await stores[0]!.sql`insert into item (id, note, color) values (1, 'a', 'red')`;
    expect(await stores[1]!.sql`select name from migration order by name`).toHaveLength(2);
    expect((await stores[2]!.sql`select id from item`)[0]?.id).toBe(1n);
    await Promise.all(stores.map((store) => store.close()));
  });
  test("a failing migration leaves nothing behind and says which one it was", async () => {
    const url = await server.database();
    const broken = [
      ...MIGRATIONS,
      { name: "0003_broken.sql", sql: "create table half (id int); select nonsense" },
    ];
    await expect(open(url, { migrations: broken })).rejects.toThrow("demo/0003_broken.sql failed");
    const store = await open(url);
    expect((await store.sql`select to_regclass('demo.half') as half`)[0]?.half).toBeNull();
    await store.close();
  });
  test("a changed migration and an older program are refused", async () => {
    const url = await server.database();
    await (await open(url)).close();
    const changed = [{ name: "0001_items.sql", sql: "create table item (id int)" }, MIGRATIONS[1]!];
    await expect(open(url, { migrations: changed })).rejects.toThrow("was changed after it was applied");
    await expect(open(url, { migrations: MIGRATIONS.slice(0, 1) })).rejects.toThrow(
      "0002_color.sql, which this program does not know",
    );
  });
});

describe("the store", () => {
  test("a transaction that throws changes nothing", async () => {
    const store = await open(await server.database());
    const failing = store.transaction(async (tx) => {
      await tx`insert into item (id, note) values (1, 'a')`;
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    expect(await store.sql`select 1 from item`).toHaveLength(0);
    await store.close();
  });
  test("a database that comes late is waited for; one that never comes is a clear error", async () => {
    const url = await server.database();
    const interruption = server.interrupt(1_500);
    await sleep(300);
    const store = await open(url);
    await interruption;
    expect(await store.check()).toBeUndefined();
    await store.close();
    await expect(
      open("postgres://nobody:none@127.0.0.1:1/none", { connectTimeoutMs: 1_000 }),
    ).rejects.toMatchObject({
      code: "unavailable",
      remedy: expect.stringContaining("POSTGRES_URL"),
    });
  });
  test("queries go on after the database was away", async () => {
    const store = await open(await server.database());
    await store.sql`insert into item (id, note) values (1, 'a')`;
    const interruption = server.interrupt(500);
    await sleep(100);
    await expect
      .poll(
        () =>
          store.sql`select 1 from item`.then(
            (rows) => rows.length,
            () => 0,
          ),
        { timeout: 20_000 },
      )
      .toBe(1);
    await interruption;
    await store.close();
  });
});

test("one leads at a time, and the next takes over", async () => {
  const url = await server.database();
  const stores = await Promise.all([open(url), open(url)]);
  let leading = 0;
  let most = 0;
  const terms: number[] = [];
  const stops = stores.map(() => new AbortController());
  const running = stores.map((store, index) =>
    whileLeader(store, { name: "demo", intervalMs: 20, signal: stops[index]!.signal }, async (signal) => {
      terms.push(index);
      most = Math.max(most, ++leading);
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
      leading--;
    }),
  );
  await expect.poll(() => terms.length).toBe(1);
  stops[terms[0]!]!.abort();
  await expect.poll(() => terms.length, { timeout: 10_000 }).toBe(2);
  expect(new Set(terms).size).toBe(2);
  for (const stop of stops) stop.abort();
  await Promise.all(running);
  expect(most).toBe(1);
  await Promise.all(stores.map((store) => store.close()));
});

describe("a database that goes away in the middle", () => {
  const endBackends = async (url: string) => {
    const other = await open(url);
    await other.sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where pid <> pg_backend_pid() and datname = current_database()`;
    await other.close();
  };
  test("fails the transaction and not the process, wherever it stood", async () => {
    const url = await server.database();
    const store = await open(url);
    const insert = (tx: Parameters<Parameters<typeof store.transaction>[0]>[0], id: number) =>
      tx`insert into item (id, note, color) values (${id}, 'x', 'red')`;
    // Between two queries, before the commit, in a query, and after the work has failed by itself.
    const stories: ((tx: Parameters<typeof insert>[0]) => Promise<unknown>)[] = [
      async (tx) => {
        await insert(tx, 1);
        await endBackends(url);
        await insert(tx, 2);
      },
      async (tx) => {
        await insert(tx, 3);
        await endBackends(url);
      },
      async (tx) => Promise.all([tx`select pg_sleep(10)`, endBackends(url)]),
      async (tx) => {
        await insert(tx, 4);
        await endBackends(url);
        throw new Error("of its own");
      },
    ];
    for (const story of stories) await expect(store.transaction(story)).rejects.toThrow();
    await store.transaction((tx) => insert(tx, 5));
    expect((await store.sql`select id from item`).map((row) => row.id)).toEqual([5n]);
    await store.close();
  });
  test("ends leadership, which comes back with it", async () => {
    const url = await server.database();
    const store = await open(url);
    const stop = new AbortController();
    let terms = 0;
    let leading = 0;
    const running = whileLeader(
      store,
      { name: "away", intervalMs: 20, signal: stop.signal },
      async (signal) => {
        terms++;
        leading++;
        await new Promise<void>((resolve) =>
          signal.addEventListener("abort", () => resolve(), { once: true }),
        );
        leading--;
      },
    );
    await expect.poll(() => terms).toBe(1);
    await endBackends(url);
    await expect.poll(() => terms, { timeout: 10_000 }).toBe(2);
    await server.interrupt(500);
    await expect.poll(() => terms, { timeout: 10_000 }).toBe(3);
    expect(leading).toBe(1);
    stop.abort();
    await running;
    await store.close();
  });
});
