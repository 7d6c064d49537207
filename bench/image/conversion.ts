// Converting as users do it, by `pilotlight image convert`: time and peak memory of the process, and what a version that changes a
// little uploads.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";

const CLI = join(import.meta.dirname, "../../libs/cli/src/main.ts");
const LOOK_INTERVAL_MS = 50;
/** Of /proc, on every Linux. */
const TICKS_PER_SECOND = 100;

export type Conversion = {
  manifestDigest: string;
  contentBytes: number;
  uploadedBytes: number;
  seconds: number;
  cpuSeconds: number;
  peakRssMb: number;
};

export async function convert(reference: string, bucketDir: string): Promise<Conversion> {
  const startedAt = performance.now();
  const { json, peakRssMb, cpuSeconds } = await pilotlight([
    "image",
    "convert",
    reference,
    "--bucket",
    `file://${bucketDir}`,
  ]);
  const { manifestDigest, sizes, uploadedBytes } = json as {
    manifestDigest: string;
    sizes: { contentBytes: number };
    uploadedBytes: number;
  };
  const seconds = (performance.now() - startedAt) / 1000;
  return { manifestDigest, contentBytes: sizes.contentBytes, uploadedBytes, seconds, cpuSeconds, peakRssMb };
}

/** Teaches the bucket what a start touches. */
export async function profile(manifestDigest: string, bucketDir: string): Promise<{ hotBytes: number }> {
  const { json } = await pilotlight(["image", "profile", manifestDigest, "--bucket", `file://${bucketDir}`]);
  return json as { hotBytes: number };
}

type Ran = { json: unknown; peakRssMb: number; cpuSeconds: number };

async function pilotlight(args: readonly string[]): Promise<Ran> {
  const child = spawn(process.execPath, [CLI, ...args, "--json"], { stdio: ["ignore", "pipe", "pipe"] });
  let peakKb = 0;
  let ticks = 0;
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      // proc_pid_stat(5): the 14th and 15th field, after the name in brackets.
      const [, rest = ""] = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ");
      const fields = rest.split(" ").map(Number);
      ticks = (fields[11] ?? 0) + (fields[12] ?? 0);
      peakKb = Math.max(peakKb, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
    } catch {
      // It has ended.
    }
  }, LOOK_INTERVAL_MS);
  const [output, errors, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit"),
  ]);
  clearInterval(timer);
  if (code !== 0) throw new Error(`pilotlight ${args.join(" ")} ended with ${code}:\n${errors.slice(-2000)}`);
  return { json: JSON.parse(output), peakRssMb: (peakKb * 1024) / 1e6, cpuSeconds: ticks / TICKS_PER_SECOND };
}
