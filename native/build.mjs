// Builds a Rust crate of native/ once per state of its sources and keeps the result outside the checkout. Plain Node
// without dependencies: it runs before anything is installed.

import { spawn, spawnSync } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, join, relative } from "node:path";
import { createInterface } from "node:readline";

/** A build that cannot start or did not end well; `remedy` says what to do about it. */
export class BuildError extends Error {
  constructor(message, remedy) {
    super(`${message}\n  ${remedy}`);
    this.name = "BuildError";
    this.remedy = remedy;
  }
}

/** Where everything is kept that is built or fetched once per machine. */
function cacheDirectory(env = process.env) {
  if (env.PILOTLIGHT_CACHE_DIR) return env.PILOTLIGHT_CACHE_DIR;
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "pilotlight");
}

/**
 * Builds `directory` (a crate with its own Cargo.lock) unless the cache has it, and puts the result into the crate's
 * folder as `artifact`: a `*.node` is made of the crate's cdylib, anything else of its binary of that name.
 *
 * @param {{ crate: string, directory: string, artifact: string, features?: string[], log?: (line: string) => void }} options
 * @returns {Promise<{ path: string, built: boolean, seconds: number }>} `path` is the cached file; `built` is false when
 *   the cache had it.
 */
export async function buildNative({ crate, directory, artifact, features = [], log = () => {} }) {
  const started = performance.now();
  const seconds = () => Math.round((performance.now() - started) / 100) / 10;
  const key = sourceKey(directory, [rustVersion(), artifact, ...features]);
  const cached = join(cacheDirectory(), "native", `${crate}-${key}`, artifact);
  const place = (path) => (features.length === 0 ? replace(path, join(directory, artifact)) : undefined);
  if (existsSync(cached)) {
    place(cached);
    return { path: cached, built: false, seconds: seconds() };
  }
  requireLinker();
  log(`building native/${crate} (once; the result is kept in ${cacheDirectory()})`);
  const made = await cargoBuild({ crate, directory, artifact, features, log });
  mkdirSync(join(cached, ".."), { recursive: true });
  replace(made, cached, { copy: true });
  place(cached);
  log(`built native/${crate} in ${seconds()} s`);
  return { path: cached, built: true, seconds: seconds() };
}

function rustVersion() {
  const rustc = spawnSync("rustc", ["-vV"], { encoding: "utf8" });
  if (rustc.error || spawnSync("cargo", ["--version"]).error) {
    throw new BuildError(
      "Rust (rustc and cargo) is not on the PATH.",
      "Install it from https://rustup.rs (no root needed), open a new shell, and run this again.",
    );
  }
  if (rustc.status !== 0)
    throw new BuildError(`rustc does not run: ${rustc.stderr.trim()}`, "Run: rustup update");
  return rustc.stdout;
}

/** Rust links through the C compiler. */
function requireLinker() {
  if (spawnSync(process.env.CC || "cc", ["--version"]).error === undefined) return;
  throw new BuildError(
    "No C compiler (cc) is on the PATH; Rust needs it to link.",
    "Install one, e.g. Debian and Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; macOS: xcode-select --install.",
  );
}

/** Changes with anything that can change the result. */
function sourceKey(directory, extra) {
  const hash = createHash("sha256");
  for (const file of sources(directory).sort()) {
    const content = readFileSync(file);
    hash.update(`${relative(directory, file)}\0${content.length}\0`).update(content);
  }
  for (const part of [process.platform, process.arch, process.env.RUSTFLAGS ?? "", ...extra]) {
    hash.update(`\0${part}`);
  }
  return hash.digest("hex").slice(0, 24);
}

const NOT_SOURCES = new Set(["node_modules", "target", "fixtures", "scripts"]);

function sources(directory) {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return NOT_SOURCES.has(entry.name) ? [] : sources(path);
    return /(\.rs|^Cargo\.(toml|lock)|^rust-toolchain(\.toml)?)$/.test(entry.name) ? [path] : [];
  });
}

/** Runs cargo and returns the path of the file it made. */
async function cargoBuild({ crate, directory, artifact, features, log }) {
  const flags = ["build", "--release", "--locked", "--message-format=json-render-diagnostics"];
  if (features.length > 0) flags.push("--features", features.join(","));
  const cargo = spawn("cargo", flags, {
    cwd: directory,
    env: { ...process.env, CARGO_TARGET_DIR: join(cacheDirectory(), "cargo-target", crate) },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const closed = new Promise((resolve, reject) => cargo.once("error", reject).once("close", resolve));
  const errors = [];
  const progress = readLines(cargo.stderr, (line) => {
    errors.push(line);
    if (/^\s*(Compiling|Downloading|error|warning)/.test(line)) log(line.trim());
  });
  const found = [];
  const output = readLines(cargo.stdout, (line) => {
    const message = JSON.parse(line);
    if (message.reason === "compiler-artifact") found.push(...madeFiles(message, directory, artifact));
  });
  await Promise.all([progress, output]);
  const status = await closed;
  if (status !== 0 || found.length === 0) {
    throw new BuildError(
      `cargo could not build native/${crate}:\n${errors.slice(-40).join("\n")}`,
      "If the network was the reason, run this again; else see the compiler's message above.",
    );
  }
  return found[0];
}

async function readLines(stream, each) {
  for await (const line of createInterface({ input: stream })) each(line);
}

function madeFiles(message, directory, artifact) {
  if (message.manifest_path !== join(directory, "Cargo.toml")) return [];
  if (!artifact.endsWith(".node"))
    return message.target.name === artifact && message.executable ? [message.executable] : [];
  if (!message.target.kind.includes("cdylib")) return [];
  return message.filenames.filter((name) => /\.(so|dylib|dll)$/.test(name));
}

/**
 * Puts `from` in the place of `to` in one step: a running process keeps the file it has mapped. Linked where the file
 * system allows it, unless `copy` says that `from` will be written again.
 */
function replace(from, to, { copy = false } = {}) {
  if (existsSync(to) && statSync(to).ino === statSync(from).ino) return;
  const partial = `${to}.${basename(randomUUID()).slice(0, 8)}.partial`;
  try {
    if (copy) copyFileSync(from, partial);
    else linkOrCopy(from, partial);
    renameSync(partial, to);
  } finally {
    rmSync(partial, { force: true });
  }
}

function linkOrCopy(from, to) {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to);
  }
}
