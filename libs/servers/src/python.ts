// Python environments with pinned packages, made once per list of packages and kept outside the checkout.
import { createHash } from "node:crypto";
import { access, mkdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { cacheDir } from "./cache.ts";
import { runCommand } from "./processes.ts";

/** Large wheels (torch and what it needs: 3 GB) over a slow link. */
const INSTALL_TIMEOUT_MS = 1_800_000;

/** uv resolves with overrides, which pip cannot. */
const UV = "uv==0.13.8";

export type VenvOptions = {
  /** Requirements that stand instead of what packages ask for: a line each, as uv's `--overrides` has it. */
  overrides?: readonly string[];
  /** Empty distributions that only carry a name and version, for programs that look for their own. */
  names?: readonly { name: string; version: string }[];
};

/**
 * Folder of a virtual environment with exactly these packages (`name==version`) and what they need. Throws unavailable
 * when there is no Python 3 or the packages cannot be had.
 */
export async function ensurePythonVenv(
  name: string,
  requirements: readonly string[],
  options: VenvOptions = {},
): Promise<string> {
  const { overrides = [], names = [] } = options;
  const identity = [...requirements, ...overrides, ...names.map((one) => `${one.name} ${one.version}`)];
  const key = createHash("sha256").update(identity.join("\n")).digest("hex").slice(0, 16);
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
    const python = join(folder, "bin/python");
    const install = (...args: string[]) =>
      runCommand(python, ["-m", ...args], { timeoutMs: INSTALL_TIMEOUT_MS });
    const pip = ["pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
    if (overrides.length === 0) await install(...pip, ...requirements);
    else {
      const file = join(folder, "overrides.txt");
      await writeFile(file, overrides.map((line) => `${line}\n`).join(""));
      await install(...pip, UV);
      const only = ["--python", python, "--only-binary", ":all:"];
      await install("uv", "pip", "install", "--quiet", ...only, "--overrides", file, ...requirements);
    }
    for (const one of names) await writeDistribution(folder, python, one);
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

/** A distribution of no files: the metadata is all that `importlib.metadata` looks at. */
async function writeDistribution(
  venv: string,
  python: string,
  { name, version }: { name: string; version: string },
): Promise<void> {
  const code = "import sysconfig; print(sysconfig.get_path('purelib'))";
  const site = (await runCommand(python, ["-c", code], { cwd: venv })).trim();
  const folder = join(site, `${name}-${version}.dist-info`);
  await mkdir(folder);
  await writeFile(join(folder, "METADATA"), `Metadata-Version: 2.1\nName: ${name}\nVersion: ${version}\n`);
}
