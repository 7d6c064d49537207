// Fetches a wheel by package name through pip, so that the machine's own index, proxy and certificates are used. Only
// wheels, without dependencies: nothing of the package is run. Kept under its digest.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { PlatformError } from "@pilotlight/errors";

export type DownloadOptions = {
  package: string;
  version: string | undefined;
  /** SHA-256 that the wheel must have. */
  sha256: string | undefined;
  cacheDirectory: string;
  signal: AbortSignal | undefined;
};

export type Download = { path: string; sha256: string };

const OUTPUT_CHARACTERS_MAX = 4000;

/** The wheel's place in the cache. A pinned wheel that is there already is not fetched again, but checked again. */
export async function downloadWheel(options: DownloadOptions): Promise<Download> {
  const wheels = join(options.cacheDirectory, "wheels");
  await mkdir(wheels, { recursive: true });
  if (options.sha256 !== undefined) {
    const path = join(wheels, `${options.sha256}.whl`);
    if (
      (await stat(path).catch(() => undefined)) !== undefined &&
      (await sha256Of(path)) === options.sha256
    ) {
      return { path, sha256: options.sha256 };
    }
  }
  const folder = await mkdtemp(join(wheels, "download-"));
  try {
    const fetched = await pipDownload(options, folder);
    const sha256 = await sha256Of(fetched);
    if (options.sha256 !== undefined && sha256 !== options.sha256) {
      throw new PlatformError(
        "corrupt",
        `${options.package}: the wheel has SHA-256 ${sha256}, pinned is ${options.sha256}`,
        {
          remedy: "Check which package index pip is configured for.",
        },
      );
    }
    const path = join(wheels, `${sha256}.whl`);
    await rename(fetched, path);
    return { path, sha256 };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Hex SHA-256 of a file. */
export async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1024 * 1024 }), hash);
  return hash.digest("hex");
}

async function pipDownload(options: DownloadOptions, folder: string): Promise<string> {
  const requirement =
    options.version === undefined ? options.package : `${options.package}==${options.version}`;
  const hash = options.sha256 === undefined ? "" : ` --hash=sha256:${options.sha256}`;
  const requirements = join(folder, "requirements.txt");
  await writeFile(requirements, `${requirement}${hash}\n`);
  const wanted = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"];
  await python(
    ["-m", "pip", "download", ...wanted, "--dest", folder, "--requirement", requirements],
    options,
  );
  const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
  if (wheel === undefined) throw new PlatformError("notFound", `pip found no wheel for ${requirement}`);
  return join(folder, wheel);
}

async function python(args: string[], { package: name, signal }: DownloadOptions): Promise<void> {
  const { code, output } = await new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    const child = spawn("python3", args, {
      stdio: ["ignore", "pipe", "pipe"],
      ...(signal ? { signal } : {}),
    });
    let output = "";
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-OUTPUT_CHARACTERS_MAX);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, output }));
  }).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== "ENOENT") throw cause;
    throw new PlatformError("notFound", "python3 is not installed", {
      cause,
      remedy: "Install Python 3 with pip; it is used only to fetch packages.",
    });
  });
  if (code === 0) return;
  if (/No module named pip/.test(output)) {
    throw new PlatformError("notFound", "python3 has no pip", {
      remedy: "Install pip (python3 -m ensurepip, or the system's python3-pip).",
    });
  }
  const notFound = /No matching distribution|Could not find a version/.test(output);
  throw new PlatformError(
    notFound ? "notFound" : "unavailable",
    `pip could not fetch ${name}: ${output.trim()}`,
    {
      remedy: "Check the package's name and version, and pip's index settings (pip config list).",
    },
  );
}
