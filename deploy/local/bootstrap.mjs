// The door to everything that runs from a checkout: `npm start`, `npm run dev`, `npm test`, `npm run bench`, `npm run pilotlight`.
// Plain JavaScript without dependencies, because it runs before anything is installed, on whatever Node the machine has. It
// checks what the machine must bring, installs packages, builds native parts (cached outside the checkout) and services, and
// hands over to TypeScript on the pinned Node.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const here = join(root, "deploy/local");
const startedAt = Date.now();

/** What each command needs before it can run, and what it runs. */
const COMMANDS = {
  // Runs as long as the platform, so it is kept small: its young generation, and the heaps that threads get of malloc.
  start: {
    packages: true,
    native: true,
    services: true,
    main: "dist/start.js",
    flags: ["--max-semi-space-size=1"],
    env: { MALLOC_ARENA_MAX: "1" },
  },
  dev: { packages: true, native: true, services: false, main: "src/dev.ts" },
  test: { packages: true, native: true, services: true, main: "src/test.ts" },
  check: { packages: true, native: false, services: false, main: "src/check.ts" },
  bench: { packages: true, native: true, services: true, main: "../../bench/run.ts" },
  python: { packages: true, native: true, services: false, main: "../../python/test.ts" },
  vllm: { packages: true, native: true, services: false, main: "../../python/vllm-test.ts" },
  build: { packages: true, native: true, services: true, main: undefined },
  cli: { packages: true, native: false, services: false, main: "../../libs/cli/src/main.ts" },
};

/** What a first start writes: packages and state into the checkout, native builds, tools and models into the cache. */
const CHECKOUT_BYTES = 2 * 1024 ** 3;
const CACHE_BYTES = 3 * 1024 ** 3;

const [name = "start", ...args] = process.argv.slice(2);
const command = COMMANDS[name];
if (command === undefined) fail(`'${name}' is not one of ${Object.keys(COMMANDS).join(", ")}`);
try {
  await main();
} catch (error) {
  fail(error instanceof Error ? error.message : String(error));
}

async function main() {
  const quiet = name === "cli";
  checkMachine(command.native);
  if (command.packages) await installPackages(quiet);
  const node = pinnedNode();
  if (command.native) await buildNativeParts();
  if (command.services) await buildServices(node);
  if (command.main === undefined) return;
  process.exitCode = await run(node, [...(command.flags ?? []), join(here, command.main), ...args], {
    stdio: "inherit",
    env: { ...environment(node), ...command.env },
  });
}

function checkMachine(native) {
  const missing = [];
  const [major = 0] = process.versions.node.split(".").map(Number);
  if (major < 20)
    missing.push(`Node.js 20 or newer (this is ${process.versions.node}): https://nodejs.org/en/download`);
  if (process.platform !== "linux") missing.push("Linux (on other systems: docker compose up)");
  if (!works("npm", ["--version"])) missing.push("npm: it comes with Node.js");
  if (!works("git", ["--version"])) missing.push("git: apt install git");
  if (!works("python3", ["-m", "pip", "--version"]))
    missing.push("Python 3 with pip: apt install python3-pip");
  if (native && !works("cargo", ["--version"]))
    missing.push("Rust (cargo): https://rustup.rs, no root needed");
  if (native && !works(process.env.CC ?? "cc", ["--version"]))
    missing.push("a C compiler: apt install gcc libc6-dev");
  const installed = existsSync(join(root, "node_modules/.pilotlight-lock"));
  if (!installed) missing.push(...lacksRoom(root, CHECKOUT_BYTES), ...lacksRoom(cacheFolder(), CACHE_BYTES));
  if (missing.length > 0)
    throw new Error(`this machine lacks\n${missing.map((line) => `  - ${line}`).join("\n")}`);
}

/** Complaints about a folder that is to be written into. */
function lacksRoom(folder, bytes) {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    const { bavail, bsize } = statfsSync(folder);
    const gib = (n) => (n / 1024 ** 3).toFixed(1);
    return bavail * bsize >= bytes
      ? []
      : [`room on the disk of ${folder}: ${gib(bytes)} GiB are needed, ${gib(bavail * bsize)} GiB are free`];
  } catch (error) {
    return [`a writable folder ${folder} (${error.message}); PILOTLIGHT_CACHE_DIR moves the cache`];
  }
}

function works(program, parameters) {
  return spawnSync(program, parameters, { stdio: "ignore" }).status === 0;
}

/** Installs what the lock file says, when it says something else than last time. */
async function installPackages(quiet) {
  const lock = createHash("sha256")
    .update(readFileSync(join(root, "package-lock.json")))
    .digest("hex");
  const stamp = join(root, "node_modules/.pilotlight-lock");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  if (!quiet) say("installing packages (npm ci)");
  // No scripts: nothing of what we use needs one, and what is not run cannot do harm.
  const code = await run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], {
    cwd: root,
    stdio: ["ignore", quiet ? "ignore" : "inherit", "inherit"],
  });
  if (code !== 0)
    throw new Error("npm ci failed; its message stands above. Is the package registry reachable?");
  writeFileSync(stamp, lock);
}

/** The Node that every part runs on; it came with the packages. */
function pinnedNode() {
  const pinned = join(root, "node_modules", `node-linux-${process.arch}`, "bin/node");
  if (existsSync(pinned)) return pinned;
  const [major = 0] = process.versions.node.split(".").map(Number);
  if (major >= 24) return process.execPath;
  throw new Error(
    `there is no pinned Node for linux-${process.arch}, and this Node (${process.versions.node}) is older than 24`,
  );
}

async function buildNativeParts() {
  for (const crate of readdirSync(join(root, "native"), { withFileTypes: true })) {
    const script = join(root, "native", crate.name, "build.mjs");
    if (!crate.isDirectory() || !existsSync(script)) continue;
    const code = await run(process.execPath, [script], { cwd: root, stdio: "inherit" });
    if (code !== 0)
      throw new Error(`native/${crate.name} did not build; the compiler's message stands above`);
  }
}

async function buildServices(node) {
  const code = await run(
    join(root, "node_modules/.bin/nx"),
    ["run-many", "-t", "build", "--outputStyle=static"],
    {
      cwd: root,
      env: environment(node),
      quietUnlessFailed: true,
    },
  );
  if (code !== 0) throw new Error("a service did not build; the message stands above");
}

function environment(node) {
  const cache = cacheFolder();
  mkdirSync(cache, { recursive: true });
  return {
    ...process.env,
    PATH: `${dirname(node)}:${join(root, "node_modules/.bin")}:${process.env.PATH}`,
    NODE_COMPILE_CACHE: join(cache, "node-compile"),
    NX_DAEMON: "false",
  };
}

/** Where builds, tools and models are kept outside the checkout. */
function cacheFolder() {
  return (
    process.env.PILOTLIGHT_CACHE_DIR ??
    join(process.env.XDG_CACHE_HOME ?? join(process.env.HOME ?? "/tmp", ".cache"), "pilotlight")
  );
}

/** Runs a program to its end. Ctrl-C reaches it by the terminal; here it only must not end us first. */
function run(program, parameters, options) {
  const { quietUnlessFailed, ...rest } = options;
  const ignore = () => {};
  process.on("SIGINT", ignore);
  return new Promise((resolve, reject) => {
    const child = spawn(
      program,
      parameters,
      quietUnlessFailed ? { ...rest, stdio: ["ignore", "pipe", "pipe"] } : rest,
    );
    const forward = () => child.kill("SIGTERM");
    process.on("SIGTERM", forward);
    const output = [];
    child.stdout?.on("data", (data) => output.push(data));
    child.stderr?.on("data", (data) => output.push(data));
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      process.off("SIGINT", ignore);
      process.off("SIGTERM", forward);
      if (quietUnlessFailed && code !== 0) process.stderr.write(Buffer.concat(output));
      resolve(code ?? (signal === "SIGINT" ? 130 : 1));
    });
  });
}

function say(text) {
  process.stdout.write(`[${String(Math.round((Date.now() - startedAt) / 1000)).padStart(4)}s] ${text}\n`);
}

function fail(text) {
  process.stderr.write(`pilotlight: ${text}\n`);
  process.exit(1);
}
