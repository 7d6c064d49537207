// How every benchmark reports: figures by key, beside their targets, with the machine and the versions they were taken on. With
// `--json` the last line is one JSON object.
import { execFileSync } from "node:child_process";
import { cpus, release, totalmem } from "node:os";
import { ownNetwork } from "./own-network.ts";

/** A figure that the benchmark promises, with its bar. */
export type Target = { op: "<=" | ">="; value: number; unit: string; what: string };

export type Figures = {
  bench: string;
  targets: Record<string, Target>;
  /** null: not measured here; the note says why. */
  figures: Record<string, number | null>;
  notes: Record<string, string>;
  versions: Record<string, string>;
};

/** What of a benchmark is to be run; what it does not know it ignores. */
export type RunOptions = {
  smoke: boolean;
  parts?: string[];
  rounds?: number;
  images?: string[];
  profiles?: string[];
  peers?: string[];
};

function machine(): Record<string, string | number> {
  const [cpu] = cpus();
  return {
    cpu: cpu?.model ?? "unknown",
    cores: cpus().length,
    memoryGib: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    network: ownNetwork() ?? "the machine's",
  };
}

/** First line of a program's version, or "not there". */
export function versionOf(command: string, args: readonly string[]): string {
  try {
    return (
      execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })
        .split("\n")[0]
        ?.trim() ?? ""
    );
  } catch {
    return "not there";
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

const met = (value: number, target: Target) =>
  target.op === "<=" ? value <= target.value : value >= target.value;

/** Prints a table, and the JSON line if it was asked for. */
export function report(result: Figures, json: boolean): void {
  const about = machine();
  process.stdout.write(
    `\n${result.bench} on ${about.cores} × ${about.cpu}, ${about.memoryGib} GiB, kernel ${about.kernel}, Node ${about.node}, network: ${about.network}\n`,
  );
  for (const [key, target] of Object.entries(result.targets)) {
    const value = result.figures[key] ?? null;
    const verdict = value === null ? "not measured" : met(value, target) ? "met" : "MISSED";
    const shown = value === null ? "–" : String(Math.round(value * 1000) / 1000);
    process.stdout.write(
      `  ${key.padEnd(34)} ${shown.padStart(10)} ${target.unit.padEnd(14)} ${target.op} ${target.value}  ${verdict}\n`,
    );
    if (result.notes[key] !== undefined) process.stdout.write(`${" ".repeat(6)}${result.notes[key]}\n`);
  }
  if (json)
    process.stdout.write(
      `${JSON.stringify({ bench: result.bench, machine: about, versions: result.versions, figures: result.figures, notes: result.notes })}\n`,
    );
}
