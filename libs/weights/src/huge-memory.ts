// Shared memory with huge pages: a tmpfs of its own, mounted with huge=within_size. Its pages are made ready in a tenth of the
// processor time that /dev/shm's take, and whoever maps them has few page faults; see bench/RESULTS.md. Root only.
import { execFileSync } from "node:child_process";
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";

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

/** A block size above any ordinary page's: what tmpfs says of its files where huge pages back them (shmem_getattr). */
const HUGE_BLOCK_BYTES = 1024 * 1024;

/** True where files of this folder get huge pages by themselves: tmpfs mounted with huge=always or huge=within_size. */
export function hasHugePages(directory: string): boolean {
  const path = join(directory, "huge-pages-probe");
  rmSync(path, { force: true });
  const descriptor = openSync(path, "wx", 0o600);
  try {
    ftruncateSync(descriptor, 64 * HUGE_BLOCK_BYTES);
    return fstatSync(descriptor).blksize >= HUGE_BLOCK_BYTES;
  } finally {
    closeSync(descriptor);
    rmSync(path, { force: true });
  }
}
