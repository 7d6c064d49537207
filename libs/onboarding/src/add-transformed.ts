// `pilotlight model add … --quantize … --shard-mb … --ranks …`: a model that is transformed while it is added. A repository is
// read from where it is; what first has to be converted (a GGUF file, a package) is brought to a folder of this machine.
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  type AddedModel,
  type AddModelOptions,
  addModel,
  parseModelSource,
  type RecordHead,
  readRepository,
  readRepositorySource,
  repositoryName,
} from "@pilotlight/models";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { checkTransformation, recipeOf, type Transformation } from "./options.ts";
import { transform } from "./transform.ts";

export type AddTransformedOptions = AddModelOptions & { transformation: Transformation };

/** Adds a model, transformed. One that is there already, from the same source by the same recipe, is left alone. */
export async function addTransformed(options: AddTransformedOptions): Promise<AddedModel> {
  checkTransformation(options.transformation);
  const source = parseModelSource(options.from, process.cwd());
  try {
    if (source.kind !== "repository") return await addStaged(options);
    const from = openStore(source.uri, options.sourceOptions ?? {});
    try {
      return await addFrom(from, { name: repositoryName(source.uri) }, options);
    } finally {
      await from.close();
    }
  } catch (thrown) {
    throw toPlatformError(thrown);
  }
}

async function addStaged(options: AddTransformedOptions): Promise<AddedModel> {
  const cache = options.cacheDirectory ?? join(homedir(), ".cache/pilotlight/models");
  await mkdir(cache, { recursive: true });
  const folder = await mkdtemp(join(cache, "staged-"));
  const stage = openStore(`file://${folder}`);
  try {
    const { record } = await addModel({ ...options, to: stage });
    return await addFrom(stage, { name: record.name, origin: record.source }, options);
  } finally {
    await stage.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** `origin`: what the store's content was itself made from, where it is only a stage. */
async function addFrom(
  from: ObjectStore,
  known: { name: string; origin?: RecordHead["source"] },
  options: AddTransformedOptions,
): Promise<AddedModel> {
  const { to, transformation } = options;
  if (to.uri === from.uri) {
    throw new PlatformError("invalidArgument", "a repository cannot be transformed in place", {
      field: "to",
      remedy: "Name another place with --to.",
    });
  }
  const signal = options.signal ?? new AbortController().signal;
  const source = await readRepositorySource(from, signal);
  const record = await readRepository(from, signal);
  const origin = known.origin ?? { uri: from.uri, revision: source.revision };
  const recipe = recipeOf(transformation);
  const there = await readRepository(to, signal);
  if (
    there?.recipe === recipe &&
    there.source.uri === origin.uri &&
    there.source.revision === origin.revision &&
    there.source.sha256 === origin.sha256
  ) {
    return { record: there, outcome: "alreadyThere" };
  }
  const head: RecordHead = {
    name: options.name ?? known.name,
    recipe,
    source: origin,
    licence: record?.licence ?? source.licence,
    terms: record?.terms ?? source.terms,
    notice: `${record?.notice ?? `From ${origin.uri}.`} Changed: ${changes(transformation)}.`,
    ...(options.tool === undefined ? {} : { tool: options.tool }),
  };
  const written = await transform({
    from,
    to,
    source,
    head,
    transformation,
    onProgress: (progress) => options.onProgress?.({ step: "writing", ...progress }),
    signal,
  });
  return { record: written, outcome: "added" };
}

function changes({ scheme, ranks }: Transformation): string {
  const parts = [
    ...(scheme === null ? [] : [`linear layers quantised to ${scheme.name.toUpperCase()}`]),
    ...(ranks === 1 ? [] : [`cut for ${ranks} ranks`]),
  ];
  return parts.length === 0 ? "weights laid out in other files" : parts.join(", ");
}
