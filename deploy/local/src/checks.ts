// The static checks, each a program with an exit code: the same list for `npm run check` and for `npm test`.
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "@pilotlight/servers";
import { ROOT } from "./checkout.ts";

export type Check = {
  name: string;
  command: string;
  args: readonly string[];
  cwd?: string;
  env?: Record<string, string>;
};
export type CheckResult = { name: string; passed: boolean; seconds: number; output: string };

const tool = (name: string) => join(ROOT, "node_modules/.bin", name);

/** What needs only the checkout and its packages. */
export const STATIC_CHECKS: readonly Check[] = [
  { name: "types (tsc)", command: tool("tsc"), args: ["-p", "tsconfig.json"] },
  {
    name: "format and lint (biome)",
    command: tool("biome"),
    args: ["ci", "--colors=off", "--error-on-warnings", "."],
  },
  { name: "unused code and undeclared packages (knip)", command: tool("knip"), args: ["--no-progress"] },
  { name: "contracts (buf lint)", command: tool("buf"), args: ["lint"], cwd: join(ROOT, "proto") },
  {
    name: "contracts stay readable (buf breaking)",
    command: tool("buf"),
    args: ["breaking", "--against", "released.binpb"],
    cwd: join(ROOT, "proto"),
  },
];

/** The tests of the Rust crates. */
export function rustChecks(): Check[] {
  return readdirSync(join(ROOT, "native"))
    .filter((name) => existsSync(join(ROOT, "native", name, "Cargo.toml")))
    .map((name) => ({
      name: `native/${name} (cargo test)`,
      command: "cargo",
      args: ["test", "--release", "--quiet", "--locked"],
      cwd: join(ROOT, "native", name),
      env: { CARGO_TARGET_DIR: cacheDir("cargo-target", name) },
    }));
}

/** Runs a check to its end. */
export function runCheck(check: Check): Promise<CheckResult> {
  const from = Date.now();
  return new Promise((resolve) => {
    const child = spawn(check.command, check.args, {
      cwd: check.cwd ?? ROOT,
      env: { ...process.env, NO_COLOR: "1", ...check.env },
    });
    let output = "";
    const collect = (data: Buffer) => {
      output = (output + data).slice(-200_000);
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    const done = (passed: boolean) =>
      resolve({ name: check.name, passed, seconds: (Date.now() - from) / 1000, output });
    child.once("error", (error) => {
      output += error.message;
      done(false);
    });
    child.once("exit", (code) => done(code === 0));
  });
}

/** Runs checks one after the other and prints each; gives how many passed and failed. */
export async function runChecks(checks: readonly Check[]): Promise<{ passed: number; failed: number }> {
  const counts = { passed: 0, failed: 0 };
  for (const check of checks) {
    const result = await runCheck(check);
    counts[result.passed ? "passed" : "failed"]++;
    process.stdout.write(
      `${result.passed ? "ok    " : "FAILED"} ${result.name} (${result.seconds.toFixed(1)} s)\n`,
    );
    if (!result.passed) process.stdout.write(`${result.output.trimEnd()}\n\n`);
  }
  return counts;
}
