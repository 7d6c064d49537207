// What this machine can do, as the program finds out by trying; and which way of mounting follows from it. The choice
// is a pure function.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

export type MountMethod = "fanotify" | "fuse" | "extract";

const abilitySchema = z.object({ ok: z.boolean(), why: z.string() });
const probeSchema = z.object({ fanotify: abilitySchema, fuse: abilitySchema, userNamespaces: abilitySchema });

/** Each ability, and why it is missing. */
export type Probe = z.infer<typeof probeSchema>;

const run = promisify(execFile);

/** Asks the program; without one, everything but extraction is missing. */
export async function probeMachine(
  binary: string | undefined,
  directory: string,
  timeoutMs: number,
): Promise<Probe> {
  if (binary === undefined) {
    const missing = { ok: false, why: "the imagefs program is not built (it needs Rust)" };
    return { fanotify: missing, fuse: missing, userNamespaces: missing };
  }
  const { stdout } = await run(binary, ["probe", directory], { timeout: timeoutMs });
  return probeSchema.parse(JSON.parse(stdout));
}

/** The best way that works, or the one that was asked for. Throws `unsupported` when that one does not work here. */
export function chooseMethod(probe: Probe, wanted: MountMethod | "auto"): MountMethod {
  if (wanted === "extract") return "extract";
  if (wanted === "auto") return probe.fanotify.ok ? "fanotify" : probe.fuse.ok ? "fuse" : "extract";
  if (probe[wanted].ok) return wanted;
  throw new PlatformError("unsupported", `images cannot be mounted by ${wanted} here: ${probe[wanted].why}`, {
    field: "method",
    remedy: 'Use "auto": it takes the best way that works on this machine.',
  });
}
