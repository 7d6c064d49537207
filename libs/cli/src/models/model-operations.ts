// Adding models. Loaded only when it is used: it brings the readers of every model format along.
import { PlatformError } from "@pilotlight/errors";
import {
  type AddModelOptions,
  type AddProgress,
  addModel,
  KNOWN_MODELS,
  MODELS_FOLDER,
  type ModelRecord,
} from "@pilotlight/models";
import { joinUri, openStore } from "@pilotlight/object-store";
import { addTransformed, parseScheme, type Transformation } from "@pilotlight/onboarding";
import type { Context } from "../context.ts";
import { bucketOf } from "../endpoints.ts";
import { formatPercent, formatProgress } from "../text/format.ts";
import { version } from "../version.ts";
import { createLiveView } from "../view/live-view.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const NO_WISH: TransformWish = {
  quantize: undefined,
  groupSize: undefined,
  shardMb: undefined,
  ranks: undefined,
  judge: true,
};

/** What a source is called: a known model's own name, else the last part of its path. */
function nameOf(source: string): string {
  const known = KNOWN_MODELS.find((one) => one.name === source || source.startsWith(`pypi://${one.package}`));
  const last = source
    .replace(/[?#@].*$/, "")
    .replace(/\/+$/, "")
    .split("/")
    .at(-1)
    ?.replace(/\.(gguf|whl)$/, "");
  return known?.name ?? last ?? "";
}

/** Where a model goes: a folder of the bucket, by its name (default: what the source is called), or the very place. */
export type AddPlace = { name?: string; bucket?: string; to?: string };

/** What is to be done to the weights on the way; undefined: nothing. */
export type TransformWish = {
  quantize: string | undefined;
  groupSize: number | undefined;
  shardMb: number | undefined;
  ranks: number | undefined;
  judge: boolean;
};

const SHARD_BYTES_DEFAULT = 5e9;

/** Null where the model is taken as it is. */
function transformationOf({
  quantize,
  groupSize,
  shardMb,
  ranks,
  judge,
}: TransformWish): Transformation | null {
  if (quantize === undefined && groupSize !== undefined) {
    throw new PlatformError("invalidArgument", "--group-size belongs to --quantize int4", {
      field: "groupSize",
      remedy: "Give both, or none.",
    });
  }
  if (quantize === undefined && shardMb === undefined && ranks === undefined) return null;
  return {
    scheme: quantize === undefined ? null : parseScheme(quantize, groupSize),
    shardBytesMax: shardMb === undefined ? SHARD_BYTES_DEFAULT : shardMb * 1e6,
    ranks: ranks ?? 1,
    judge,
  };
}

/** Adds a model and shows how far it is. */
export async function add(
  context: Context,
  source: string,
  place: AddPlace,
  wish: TransformWish = NO_WISH,
): Promise<void> {
  if (place.to !== undefined && place.bucket !== undefined) {
    throw new PlatformError("invalidArgument", "--to and --bucket both say where the model goes", {
      field: "to",
      remedy: "Give one of them.",
    });
  }
  const transformation = transformationOf(wish);
  const suffix = place.to === undefined && transformation?.scheme ? `-${transformation.scheme.name}` : "";
  const name = place.name ?? nameOf(place.to ?? source) + suffix;
  if (!NAME.test(name)) {
    throw new PlatformError("invalidArgument", `'${name}' cannot be a model's name`, {
      remedy: "Choose one with --name: letters, digits, '.', '_' and '-'.",
    });
  }
  const { terminal, endpoints } = context;
  const inBucket = `${MODELS_FOLDER}/${name}`;
  const to = openStore(place.to ?? joinUri(bucketOf(endpoints, place.bucket), inBucket));
  const view = createLiveView(terminal);
  const startedAt = Date.now();
  try {
    const options: AddModelOptions = {
      from: source,
      to,
      name,
      tool: `pilotlight ${version()}`,
      onProgress: (progress) => view.show([progressLine(progress, startedAt)]),
      signal: terminal.interrupted,
    };
    const { record, outcome } =
      transformation === null
        ? await addModel(options)
        : await addTransformed({ ...options, transformation });
    view.end();
    const uri = place.to === undefined ? `bucket://${inBucket}` : to.uri;
    context.show({ uri, outcome, record }, () => [
      outcome === "added" ? `${uri} was added` : `${uri} is there already`,
      `  licence ${record.licence}. ${record.notice}`,
      ...qualityLines(record),
    ]);
  } finally {
    await to.close();
  }
}

function qualityLines({ quality }: ModelRecord): string[] {
  if (quality === undefined) return [];
  const { relativeRms, perplexity } = quality;
  const text =
    perplexity === null
      ? "its effect on text was not measured"
      : `perplexity ${perplexity.before.toFixed(3)} before, ${perplexity.after.toFixed(3)} after`;
  return [
    `  quantising changed the weights by ${(relativeRms * 100).toFixed(2)} %; ${text} (${quality.file})`,
  ];
}

function progressLine(progress: AddProgress, startedAt: number) {
  if (progress.step === "downloading") {
    const text = `downloading ${progress.what}`;
    return { key: "download", text, fact: text };
  }
  const { file, bytesDone, bytesTotal } = progress;
  const bytesPerSecond = bytesDone / Math.max(0.001, (Date.now() - startedAt) / 1_000);
  const tenths = bytesTotal === 0 ? 1 : Math.floor((bytesDone / bytesTotal) * 10) / 10;
  return {
    key: "write",
    text: `writing ${file}  ${formatProgress({ bytesDone, bytesTotal, bytesPerSecond })}`,
    fact: `writing, ${formatPercent(tenths)}`,
  };
}
