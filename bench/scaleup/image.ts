// The image that both sides start: a distribution, an inference server with its libraries, the tools of the baseline, and the
// platform's worker with its engine, which is what runs on both. Its layers have 1.28 GB.
import { cp, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ROOT } from "@pilotlight/local";
import { build } from "esbuild";
import { DEBIAN, extendImage, PATH, PIP, type PreparedImage, prepareRecipe } from "../image/recipes.ts";

const WORKER = join(ROOT, "services/worker");
const IN_IMAGE = "opt/pilotlight/worker";
const MAIN = `/${IN_IMAGE}/dist/main.js`;
const ENVIRONMENT = { PATH, PYTHONPATH: "/opt/packages", PYTHONDONTWRITEBYTECODE: "1" };

/** The baseline's engine in the image. */
export const BASELINE_PROGRAM = `/${IN_IMAGE}/dist/baseline.js`;

/** What lies below the worker: made once (minutes), from the package registries. */
export function prepareEngineBase(log: (line: string) => void): Promise<PreparedImage> {
  return prepareRecipe(
    "engine-base",
    {
      layers: [
        DEBIAN("ca-certificates,python3"),
        PIP("awscli==1.46.2 numpy==2.4.6 safetensors==0.8.0 scipy==1.16.3 transformers==5.23.0"),
        // Alone: its CUDA libraries would be 2.7 GB more.
        PIP("--no-deps torch==2.13.0"),
        PIP("--no-deps vllm==0.13.0"),
      ],
      env: ENVIRONMENT,
      command: ["python3"],
    },
    log,
  );
}

/** The image with the worker as it is now. */
export async function prepareEngineImage(
  scratch: string,
  log: (line: string) => void,
): Promise<PreparedImage> {
  const base = await prepareEngineBase(log);
  const programs = join(scratch, "programs");
  await stagePrograms(programs);
  return extendImage(base, join(scratch, "image"), `cp -a ${programs}/. "$ROOT"/`, {
    env: ENVIRONMENT,
    command: ["/usr/bin/node", MAIN],
  });
}

/** Node, the worker, the baseline's engine and the native engine, where they lie in the image. */
async function stagePrograms(folder: string): Promise<void> {
  const files: [from: string, to: string][] = [
    [process.execPath, "usr/bin/node"],
    [join(WORKER, "dist/main.js"), `${IN_IMAGE}/dist/main.js`],
    [join(WORKER, "engine.node"), `${IN_IMAGE}/engine.node`],
  ];
  for (const [from, to] of files) {
    await mkdir(dirname(join(folder, to)), { recursive: true });
    await cp(from, join(folder, to), { dereference: true });
  }
  await build({
    entryPoints: [join(import.meta.dirname, "baseline-engine.ts")],
    outfile: join(folder, BASELINE_PROGRAM),
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    logLevel: "warning",
  });
}
