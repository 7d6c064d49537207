// The image that both sides start: a distribution, the libraries of an inference server, the tools of the baseline, and the
// platform's worker with its engine, which is what runs on both. 1.28 GB stand between what its layers and what its files take.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ROOT } from "@pilotlight/local";
import { cacheDir } from "@pilotlight/servers";
import { build } from "esbuild";
import { DEBIAN, PATH, PIP, type PreparedImage, prepareRecipe } from "../image/recipes.ts";

const WORKER = join(ROOT, "services/worker");
const IN_IMAGE = "opt/pilotlight/worker";
const MAIN = `/${IN_IMAGE}/dist/main.js`;

/** The baseline's engine in the image. */
export const BASELINE_PROGRAM = `/${IN_IMAGE}/dist/baseline.js`;

/** The image, made once for each state of the worker (minutes). */
export async function prepareEngineImage(log: (line: string) => void): Promise<PreparedImage> {
  const programs = await stagePrograms();
  return prepareRecipe(
    "engine-1gb",
    {
      layers: [
        DEBIAN("ca-certificates,python3"),
        PIP("awscli==1.46.2 numpy==2.4.6 safetensors==0.8.0 scipy==1.16.3 transformers==5.23.0"),
        // Alone: its CUDA libraries would be 2.7 GB more.
        PIP("--no-deps torch==2.13.0"),
        `cp -a ${programs}/. "$ROOT"/`,
      ],
      env: { PATH, PYTHONPATH: "/opt/packages", PYTHONDONTWRITEBYTECODE: "1" },
      command: ["/usr/bin/node", MAIN],
    },
    log,
  );
}

/** Node, the worker, the baseline's engine and the native engine in a folder that is named by what they are. */
async function stagePrograms(): Promise<string> {
  const staging = cacheDir("bench-scaleup");
  await mkdir(staging, { recursive: true });
  const scratch = await mkdtemp(join(staging, "partial-"));
  try {
    const place = (file: string) => join(scratch, file);
    const files: [from: string, to: string][] = [
      [process.execPath, "usr/bin/node"],
      [join(WORKER, "dist/main.js"), `${IN_IMAGE}/dist/main.js`],
      [join(WORKER, "engine.node"), `${IN_IMAGE}/engine.node`],
    ];
    for (const [from, to] of files) {
      await mkdir(dirname(place(to)), { recursive: true });
      await cp(from, place(to), { dereference: true });
    }
    await build({
      entryPoints: [join(import.meta.dirname, "baseline-engine.ts")],
      outfile: place(BASELINE_PROGRAM),
      bundle: true,
      platform: "node",
      format: "esm",
      target: "node24",
      logLevel: "warning",
    });
    const hash = createHash("sha256");
    for (const [, to] of files) hash.update(await readFile(place(to)));
    hash.update(await readFile(place(BASELINE_PROGRAM)));
    const staged = join(staging, hash.digest("hex").slice(0, 16));
    if (!existsSync(staged)) await rename(scratch, staged);
    return staged;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
