// Real servers for tests: in containers where a container engine runs and has the images, otherwise the same servers as
// processes. Test code sees a URL and `stop`, and does not know which it is.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort, startNatsServer, startPostgresServer } from "@pilotlight/servers";
import postgres from "postgres";

export type TestServer = {
  readonly url: string;
  /** Ends the server at once and starts it again on the same address with the same data, `downMs` later. */
  interrupt(downMs: number): Promise<void>;
  stop(): Promise<void>;
};

/** Images that tests use where a container engine runs. */
const IMAGES = { nats: "nats:2-alpine", postgres: "postgres:17" } as const;

const engineHas = new Map<string, Promise<boolean>>();
const docker = promisify(execFile);

function containersRun(image: string): Promise<boolean> {
  const known = engineHas.get(image);
  if (known !== undefined) return known;
  const asked = docker("docker", ["image", "inspect", image], { timeout: 5_000 }).then(
    () => removeLeftovers().then(() => true),
    () => false,
  );
  engineHas.set(image, asked);
  return asked;
}

/** Who started a container: a killed test cannot stop its own, so the next one does. */
const OWNER_LABEL = "org.pilotlight.test-process";
const ownerLabel = () => ({ [OWNER_LABEL]: String(process.pid) });

async function removeLeftovers(): Promise<void> {
  const format = `{{.ID}} {{.Label "${OWNER_LABEL}"}}`;
  const { stdout } = await docker("docker", [
    "ps",
    "--all",
    "--filter",
    `label=${OWNER_LABEL}`,
    "--format",
    format,
  ]);
  const orphans = stdout
    .split("\n")
    .map((line) => line.split(" "))
    .filter(([id, pid]) => id !== undefined && pid !== undefined && pid !== "" && !existsSync(`/proc/${pid}`))
    .map(([id = ""]) => id);
  if (orphans.length > 0) await docker("docker", ["rm", "--force", "--volumes", ...orphans]).catch(() => {});
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A NATS server with JetStream. */
export async function startTestNats(): Promise<TestServer> {
  if (await containersRun(IMAGES.nats)) {
    const { GenericContainer, Wait } = await testcontainers();
    const port = await freePort();
    const container = await new GenericContainer(IMAGES.nats)
      .withCommand(["--jetstream"])
      .withExposedPorts({ container: 4222, host: port })
      .withLabels(ownerLabel())
      .withWaitStrategy(Wait.forLogMessage(/Server is ready/))
      .start();
    return {
      url: `nats://127.0.0.1:${port}`,
      async interrupt(downMs) {
        await container.stop({ remove: false, timeout: 0 });
        await pause(downMs);
        await container.restart();
      },
      stop: async () => void (await container.stop()),
    };
  }
  const stateDir = await mkdtemp(join(tmpdir(), "pilotlight-nats-"));
  const port = await freePort();
  let server = await startNatsServer({ stateDir, port });
  return {
    url: server.url,
    async interrupt(downMs) {
      server.kill("SIGKILL");
      await server.exited;
      await pause(downMs);
      server = await startNatsServer({ stateDir, port });
    },
    async stop() {
      await server.stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

export type TestPostgres = TestServer & {
  /** A new, empty database on this server; gives its URL. */
  database(): Promise<string>;
};

/** A PostgreSQL server. */
export async function startTestPostgres(): Promise<TestPostgres> {
  if (await containersRun(IMAGES.postgres)) {
    await testcontainers();
    const { PostgreSqlContainer } = await import("@testcontainers/postgresql");
    const port = await freePort();
    const container = await new PostgreSqlContainer(IMAGES.postgres)
      .withExposedPorts({ container: 5432, host: port })
      .withLabels(ownerLabel())
      .start();
    const url = container.getConnectionUri();
    return {
      url,
      database: () => newDatabase(url),
      async interrupt(downMs) {
        await container.stop({ remove: false, timeout: 0 });
        await pause(downMs);
        await container.restart();
      },
      stop: async () => void (await container.stop()),
    };
  }
  const stateDir = await mkdtemp(join(tmpdir(), "pilotlight-pg-"));
  const port = await freePort();
  let server = await startPostgresServer({ stateDir, port, durable: false });
  return {
    url: server.url,
    database: () => newDatabase(server.url),
    async interrupt(downMs) {
      await server.stop();
      await pause(downMs);
      server = await startPostgresServer({ stateDir, port, durable: false });
    },
    async stop() {
      await server.stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

let databases = 0;

async function newDatabase(serverUrl: string): Promise<string> {
  const name = `test_${process.pid}_${++databases}`;
  const sql = postgres(serverUrl, { max: 1, onnotice: () => {} });
  await sql`create database ${sql(name)}`;
  await sql.end();
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return url.href;
}

async function testcontainers(): Promise<typeof import("testcontainers")> {
  process.env.TESTCONTAINERS_RYUK_DISABLED ??= "true"; // its image may not be there; tests stop what they start
  return import("testcontainers");
}
