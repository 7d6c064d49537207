// The command-line tool as a user runs it: a process of its own that finds the platform by its endpoints.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { ROOT } from "./checkout.ts";

export type CliResult = { code: number; stdout: string; stderr: string };

/** Runs `pilotlight …` to its end. Does not throw for a failure: its exit code is part of what is looked at. */
export function runCli(controlUrl: string, args: readonly string[]): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(ROOT, "libs/cli/src/main.ts"), ...args], {
      env: { ...process.env, PILOTLIGHT_URL: controlUrl, NO_COLOR: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data: Buffer) => {
      stdout += data;
    });
    child.stderr.on("data", (data: Buffer) => {
      stderr += data;
    });
    child.once("error", reject);
    child.once("exit", (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}
