// Python environments with pinned packages, made once per list of packages and kept outside the checkout.
import { createHash } from "node:crypto";
import { access, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { cacheDir } from "./cache.ts";
import { runCommand } from "./processes.ts";

/** Large wheels (torch and what it needs: 3 GB) over a slow link. */
const INSTALL_TIMEOUT_MS = 1_800_000;

/**
 * Folder of a virtual environment with exactly these packages (`name==version`) and what they need. Throws unavailable
 * when there is no Python 3 or the packages cannot be had.
 */
export async function ensurePythonVenv(name: string, requirements: readonly string[]): Promise<string> {
  const key = createHash("sha256").update(requirements.join("\n")).digest("hex").slice(0, 16);
  const folder = cacheDir("python", `${name}-${key}`);
  const done = join(folder, ".complete");
  const exists = await access(done).then(
    () => true,
    () => false,
  );
  if (exists) return folder;
  try {
    await mkdir(dirname(folder), { recursive: true });
    // A venv knows its own path, so it is made in place; one that was left unfinished begins anew.
    await rm(folder, { recursive: true, force: true });
    await runCommand("python3", ["-m", "venv", folder], { timeoutMs: 120_000 });
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
    await runCommand(join(folder, "bin/python"), [...pip, ...requirements], {
      timeoutMs: INSTALL_TIMEOUT_MS,
    });
    await mkdir(done);
    return folder;
  } catch (error) {
    throw new PlatformError(
      "unavailable",
      `no Python environment for ${name}: ${toPlatformError(error).message}`,
      {
        remedy: "Install Python 3.10 or newer with venv and pip, and check the package index.",
        cause: error,
      },
    );
  }
}
