import { setTimeout as sleep } from "node:timers/promises";
import { EVENTS } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { openStore, type Store } from "@pilotlight/store";
import { startTestNats, startTestPostgres, type TestPostgres, type TestServer } from "@pilotlight/testing";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  BUS_MIGRATION,
  type Bus,
  connectBus,
  consumeIdempotent,
  consumeWithInbox,
  type Outbox,
  publish,
  publishSample,
  startOutbox,
  sweepInbox,
  tail,
  watchDocuments,
  watchSamples,
} from "./index.ts";

let nats: TestServer;
let postgres: TestPostgres;
let bus: Bus;
let store: Store;
let outbox: Outbox;
let run = 0;
const cleanups: (() => Promise<unknown>)[] = [];
const later = <T extends { close(): Promise<unknown> }>(thing: T): T => {
  cleanups.push(() => thing.close());
  return thing;
};

beforeAll(async () => {
  [nats, postgres] = await Promise.all([startTestNats(), startTestPostgres()]);
});
afterAll(async () => {
  await nats.stop();
  await postgres.stop();
});
beforeEach(async () => {
  run++;
  bus = later(
    await connectBus({ url: nats.url, service: `svc${run}`, connectTimeoutMs: 10_000, streamReplicas: 1 }),
  );
  store = later(
    await openStore({
      url: await postgres.database(),
      schema: "svc",
      migrations: [BUS_MIGRATION, { name: "0001_effect.sql", sql: "create table effect (application text)" }],
      connectionsMax: 4,
      connectTimeoutMs: 10_000,
    }),
  );
  outbox = later(startOutbox(store, bus, { sweepIntervalMs: 200, batchMax: 100 }));
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** An application name of this test alone: streams live as long as the server. */
const app = (name = "chat") => `${name}-${run}`;
const effects = async () =>
  (await store.sql<{ application: string }[]>`select application from effect`).map((row) => row.application);
const deleted = (application: string) => [EVENTS.applicationDeleted, { application }] as const;

describe("outbox", () => {
  test("a commit is heard, a rollback is not", async () => {
    const heard: string[] = [];
    later(
      await consumeIdempotent(
        bus,
        { name: "a", from: "now" },
        { applicationDeleted: (m) => void heard.push(m.application) },
      ),
    );
    const failing = outbox.transaction(async (_tx, send) => {
      send(...deleted(app("ghost")));
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    await outbox.transaction(async (_tx, send) => send(...deleted(app())));
    await expect.poll(() => heard).toEqual([app()]);
  });
  test("what a killed process committed is sent by the next one, in order", async () => {
    await outbox.close();
    const silent = {
      ...bus,
      jetstream: { publish: () => Promise.reject(new PlatformError("unavailable", "killed")) },
    } as unknown as Bus;
    const doomed = startOutbox(store, silent, { sweepIntervalMs: 60_000, batchMax: 10 });
    for (let i = 0; i < 25; i++)
      await doomed.transaction(async (_tx, send) => send(...deleted(app(`n${i}`))));
    await doomed.close();
    const heard: string[] = [];
    later(
      await consumeIdempotent(
        bus,
        { name: "a", from: "now" },
        { applicationDeleted: (m) => void heard.push(m.application) },
      ),
    );
    outbox = later(startOutbox(store, bus, { sweepIntervalMs: 200, batchMax: 10 }));
    await expect.poll(() => heard.length).toBe(25);
    expect(heard).toEqual(Array.from({ length: 25 }, (_, i) => app(`n${i}`)));
    expect(await store.sql`select 1 from outbox`).toHaveLength(0);
  });
});

describe("inbox", () => {
  test("a message that comes twice has its effect once", async () => {
    let seen = 0;
    later(
      await consumeWithInbox(
        bus,
        store,
        outbox,
        { name: "a", from: "now", ackTimeoutMs: 500 },
        {
          applicationDeleted: async (m, { tx }) => {
            seen++;
            await tx`insert into effect values (${m.application})`;
          },
        },
      ),
    );
    // Two publishers with the same fact; the server's own window is passed by with different message IDs on the wire.
    await publish(bus, ...deleted(app()), { id: `fact-${run}` });
    await expect.poll(effects).toEqual([app()]);
    const { pack, toNatsHeaders } = await import("./envelope.ts");
    const again = pack("other", ...deleted(app()), `fact-${run}`);
    await bus.jetstream.publish(again.subject, again.payload, {
      msgID: `wire-${run}`,
      headers: toNatsHeaders(again.headers),
    });
    await publish(bus, ...deleted(app("last")));
    await expect.poll(effects).toEqual([app(), app("last")]);
    expect(seen).toBe(2);
    await sweepInbox(store, 0);
    expect(await store.sql`select 1 from inbox`).toHaveLength(0);
  });
  test("a handler that fails half-way leaves nothing, comes again, and does not stop its neighbours", async () => {
    const attempts = new Map<string, number>();
    later(
      await consumeWithInbox(
        bus,
        store,
        outbox,
        { name: "a", from: "now", redelivery: { attemptsMax: 5, initialDelayMs: 20, delayMsMax: 50 } },
        {
          applicationDeleted: async (m, { tx, publish: send }, delivery) => {
            attempts.set(m.application, delivery.attempt);
            await tx`insert into effect values (${m.application})`;
            send(EVENTS.imageWanted, { image: m.application, platform: "linux/amd64" });
            if (m.application === app("flaky") && delivery.attempt < 3)
              throw new PlatformError("unavailable", "not yet");
          },
        },
      ),
    );
    const announced: string[] = [];
    later(
      await consumeIdempotent(
        bus,
        { name: "b", from: "now" },
        { imageWanted: (m) => void announced.push(m.image) },
      ),
    );
    await outbox.transaction(async (_tx, send) => {
      for (const name of ["a", "flaky", "b"]) send(...deleted(app(name)));
    });
    await expect
      .poll(async () => (await effects()).sort(), { timeout: 10_000 })
      .toEqual([app("a"), app("b"), app("flaky")].sort());
    await expect
      .poll(() => [...announced].sort(), { timeout: 10_000 })
      .toEqual([app("a"), app("b"), app("flaky")].sort());
    expect(attempts.get(app("flaky"))).toBeGreaterThanOrEqual(3);
  });
  test("a message nobody can take is kept with its reason, and the others go on", async () => {
    later(
      await consumeWithInbox(
        bus,
        store,
        outbox,
        { name: "a", from: "now" },
        {
          applicationDeleted: async (m, { tx }) => {
            if (m.application === app("poison")) throw new PlatformError("invalidArgument", "cannot be");
            await tx`insert into effect values (${m.application})`;
          },
        },
      ),
    );
    await publish(bus, ...deleted(app("poison")));
    await publish(bus, ...deleted(app("fine")));
    await expect.poll(effects).toEqual([app("fine")]);
    const dead = await bus.manager.streams.getMessage("PL_DEAD", { last_by_subj: `pl.dead.svc${run}__a` });
    expect(dead?.header.get("pl-dead-code")).toBe("invalidArgument");
    expect(dead?.header.get("pl-dead-reason")).toBe("cannot be");
  });
});

describe("documents", () => {
  test("a late reader gets the latest value of every key, then changes", async () => {
    for (const generation of [1n, 2n, 3n])
      await publish(bus, EVENTS.trafficSet, { application: app("x"), generation });
    await publish(bus, EVENTS.trafficSet, { application: app("y"), generation: 9n });
    const seen: string[] = [];
    const watch = later(
      await watchDocuments(
        bus,
        EVENTS.trafficSet,
        {},
        (m) => void (m.application.endsWith(`-${run}`) && seen.push(`${m.application}:${m.generation}`)),
      ),
    );
    await watch.current;
    expect(seen.sort()).toEqual([`${app("x")}:3`, `${app("y")}:9`]);
    await publish(bus, EVENTS.trafficSet, { application: app("x"), generation: 4n });
    await expect.poll(() => seen.at(-1)).toBe(`${app("x")}:4`);
  });
  test("a document with a time to live is forgotten", async () => {
    await publish(bus, EVENTS.trafficSet, { application: app("brief"), generation: 1n }, { ttlMs: 1_000 });
    const subject = `pl.doc.v1.rollout.traffic.set.${app("brief")}`;
    expect(await bus.manager.streams.getMessage("PL_DOCUMENTS", { last_by_subj: subject })).not.toBeNull();
    await expect
      .poll(() => bus.manager.streams.getMessage("PL_DOCUMENTS", { last_by_subj: subject }), {
        timeout: 10_000,
      })
      .toBeNull();
  });
});

describe("samples and tail", () => {
  test("a sample reaches who listens now and nobody later", async () => {
    const inFlight: number[] = [];
    publishSample(bus, EVENTS.loadSampled, { application: app(), inFlight: 1 });
    await bus.connection.flush();
    later(
      watchSamples(bus, EVENTS.loadSampled, { application: app() }, (m) => void inFlight.push(m.inFlight)),
    );
    await bus.connection.flush();
    publishSample(bus, EVENTS.loadSampled, { application: app(), inFlight: 2 });
    await expect.poll(() => inFlight).toEqual([2]);
  });
  test("the tail shows everything with its type", async () => {
    const all = later(tail(bus, "pl.>"));
    const names: (string | undefined)[] = [];
    const reading = (async () => {
      for await (const message of all) names.push(message.type?.event);
    })();
    await bus.connection.flush();
    await publish(bus, ...deleted(app()));
    publishSample(bus, EVENTS.loadSampled, { application: app() });
    await expect.poll(() => names).toEqual(["deleted", "sampled"]);
    await all.close();
    await reading;
  });
});

test("nothing is lost while NATS is away: commits are sent and heard after it is back", async () => {
  const heard: string[] = [];
  later(
    await consumeIdempotent(
      bus,
      { name: "a", from: "now" },
      { applicationDeleted: (m) => void heard.push(m.application) },
    ),
  );
  const interruption = nats.interrupt(1_500);
  for (let i = 0; i < 20; i++) {
    await outbox.transaction(async (_tx, send) => send(...deleted(app(`n${i}`))));
    await sleep(50);
  }
  publishSample(bus, EVENTS.loadSampled, { application: app() }); // dropped, not thrown
  await interruption;
  await expect.poll(() => new Set(heard).size, { timeout: 30_000 }).toBe(20);
});
