// Control-plane events: from a committed outbox row to the entered handler, through real PostgreSQL and NATS, between two
// processes as two services would do it. Latency one event at a time; throughput with everything queued, and in the end the
// inbox must hold every event exactly once.
import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import { connectBus, type Outbox, startOutbox } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import {
  ensureNatsServer,
  ensurePostgres,
  freePort,
  startNatsServer,
  startPostgresServer,
} from "@pilotlight/servers";
import { inFolders } from "../src/folders.ts";
import { type Figures, median, versionOf } from "../src/report.ts";
import { openBenchStore } from "./store.ts";

type Servers = { natsUrl: string; postgresUrl: string };

export async function run({ smoke }: { smoke: boolean }): Promise<Figures> {
  const running: { stop(): Promise<unknown> }[] = [];
  const end = async () => {
    for (const server of running) await server.stop();
  };
  return inFolders("bench-events-", end, async ({ scratch }) => {
    const nats = await startNatsServer({ stateDir: join(scratch, "nats"), port: await freePort() });
    running.push(nats);
    const postgres = await startPostgresServer({
      stateDir: join(scratch, "postgres"),
      port: await freePort(),
      durable: true,
    });
    running.push(postgres);
    const servers: Servers = { natsUrl: nats.url, postgresUrl: postgres.url };
    const bus = await connectBus({
      url: nats.url,
      service: "publisher",
      connectTimeoutMs: 10_000,
      streamReplicas: 1,
    });
    const store = await openBenchStore(postgres.url, "publisher");
    const outbox = startOutbox(store, bus, { sweepIntervalMs: 5_000, batchMax: 512 });
    const latencies = (await measureLatency(servers, outbox, smoke ? 20 : 1_000)).sort((a, b) => a - b);
    const perSecond = await measureThroughput(servers, outbox, smoke ? 500 : 30_000);
    await outbox.close();
    await bus.close();
    await store.close();
    const p99 = latencies[Math.floor(latencies.length * 0.99)] ?? Number.NaN;
    return {
      bench: "events",
      targets: {
        "events.handler_ms_p50": {
          op: "<=",
          value: 5,
          unit: "ms",
          what: "outbox row committed to handler entered, median",
        },
        "events.per_second": {
          op: ">=",
          value: 5_000,
          unit: "1/s",
          what: "outbox to inbox, one publisher, one consumer",
        },
      },
      figures: { "events.handler_ms_p50": median(latencies), "events.per_second": perSecond },
      notes: {
        "events.handler_ms_p50": `p99 ${p99.toFixed(2)} ms over ${latencies.length} events; PostgreSQL with fsync`,
      },
      versions: {
        nats: versionOf(await ensureNatsServer(), ["--version"]),
        postgres: versionOf(join(await ensurePostgres(), "postgres"), ["--version"]),
      },
    };
  });
}

type Message = { ready?: true; enteredAt?: number; handled?: number };

/** Starts the consuming service and waits until it listens. */
async function startConsumer(
  servers: Servers,
  mode: string,
  onMessage: (message: Message) => void,
): Promise<ChildProcess> {
  const child = fork(join(import.meta.dirname, "consumer.ts"), {
    env: { ...process.env, NATS_URL: servers.natsUrl, POSTGRES_URL: servers.postgresUrl, MODE: mode },
  });
  await new Promise<void>((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`the consumer ended with ${code}`)));
    child.on("message", (message: Message) => (message.ready === true ? resolve() : onMessage(message)));
  });
  return child;
}

async function measureLatency(servers: Servers, outbox: Outbox, count: number): Promise<number[]> {
  let entered: (at: number) => void = () => {};
  const consumer = await startConsumer(servers, "latency", ({ enteredAt }) => entered(enteredAt ?? 0));
  const latencies: number[] = [];
  for (let i = 0; i < count; i++) {
    const handled = new Promise<number>((resolve) => {
      entered = resolve;
    });
    await outbox.transaction(async (_tx, publish) =>
      publish(EVENTS.applicationDeleted, { application: `a${i}` }),
    );
    const committedAt = performance.timeOrigin + performance.now();
    latencies.push(Math.max(0, (await handled) - committedAt));
  }
  consumer.removeAllListeners("exit");
  consumer.kill();
  return latencies;
}

const WRITERS = 16;
const EVENTS_PER_TRANSACTION = 10;

async function measureThroughput(servers: Servers, outbox: Outbox, count: number): Promise<number> {
  let seen = 0;
  const consumer = await startConsumer(servers, "throughput", ({ handled }) => {
    seen = handled ?? seen;
  });
  const startedAt = performance.now();
  let next = 0;
  const writer = async () => {
    while (next < count) {
      const from = next;
      next += EVENTS_PER_TRANSACTION;
      await outbox.transaction(async (_tx, publish) => {
        for (let i = 0; i < EVENTS_PER_TRANSACTION; i++)
          publish(EVENTS.applicationDeleted, { application: `t${from + i}` });
      });
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, writer));
  while (seen < next) await new Promise((resolve) => setTimeout(resolve, 5));
  const rate = next / ((performance.now() - startedAt) / 1000);
  await untilNoted(servers, next);
  consumer.removeAllListeners("exit");
  consumer.kill();
  return rate;
}

/** The last handlers were entered before their batch was committed: waits for that, and for not one more. */
async function untilNoted(servers: Servers, count: number): Promise<void> {
  const store = await openBenchStore(servers.postgresUrl, "consumer");
  let noted = 0;
  for (let attempt = 0; noted < count && attempt < 100; attempt++) {
    const [row] = await store.sql<
      { n: bigint }[]
    >`select count(*) as n from inbox where consumer = 'consumer__throughput'`;
    noted = Number(row?.n);
    if (noted < count) await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await store.close();
  if (noted !== count) throw new Error(`${count} events were published, ${noted} noted as processed`);
}
