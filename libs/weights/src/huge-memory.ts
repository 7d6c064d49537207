// Shared memory with huge pages: a tmpfs of its own, mounted with huge=within_size. A load into it costs about a third less
// processor time than into /dev/shm, whose pages are made one by one; see bench/RESULTS.md. Root only.
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { hasHugePages } from "./mapped-file.ts";

/**
 * Mounts it over a folder, unless the folder has huge pages already. Throws preconditionFailed where that cannot be done (no
 * root, a kernel without huge pages for tmpfs); the folder is then as it was.
 */
export function mountHugeMemory(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o750 });
  if (hasHugePages(directory)) return;
  try {
    const options = "huge=within_size,mode=0750,nosuid,nodev,noexec";
    execFileSync("mount", ["-t", "tmpfs", "-o", options, "pilotlight-weights", directory], { stdio: "pipe" });
  } catch (error) {
    throw new PlatformError("preconditionFailed", `no huge pages at ${directory}: ${complaint(error)}`, {
      remedy:
        "Run as root on a kernel with CONFIG_TRANSPARENT_HUGEPAGE, or go without: loads cost more processor time.",
    });
  }
}

/** Takes the mount and the folder away; whoever has mapped files there keeps them. Nothing mounted: only the folder. */
export function unmountHugeMemory(directory: string): void {
  try {
    execFileSync("umount", ["--lazy", directory], { stdio: "pipe" });
  } catch {
    // Never mounted, or gone already.
  }
  rmSync(directory, { recursive: true, force: true });
}

const complaint = (error: unknown): string => {
  const { stderr } = error as { stderr?: Buffer };
  return stderr?.toString().trim() || toPlatformError(error).message;
};
