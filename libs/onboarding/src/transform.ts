// A repository made anew from another: cut, sliced and quantised in one pass over its bytes, of which only the block at hand
// is held, whatever the model's size. The same source and options give the same files, byte for byte.
import { PlatformError } from "@pilotlight/errors";
import {
  type Afterwards,
  bytesFile,
  jsonFile,
  type ModelRecord,
  modelCard,
  type RecordHead,
  type RepositoryFile,
  type RepositorySource,
  rankFolder,
  textFile,
  writeRepository,
} from "@pilotlight/models";
import type { ObjectStore } from "@pilotlight/object-store";
import { listObjects, type Repository, readRepository } from "@pilotlight/weights";
import type { Transformation } from "./options.ts";
import type { PlannedTensor, Unit } from "./planned-tensor.ts";
import { artefactTensors } from "./quality/artefact-tensors.ts";
import { compareJudgements } from "./quality/compare.ts";
import { judge } from "./quality/judge.ts";
import { QUALITY_FILE, type QualityRecord, qualityRecord } from "./quality/record.ts";
import { quantiseTensors, type TensorQuality } from "./quantise/quantise-tensors.ts";
import { quantizationConfig } from "./quantise/scheme.ts";
import { tensorsOfRank } from "./ranks.ts";
import { shardFiles } from "./shards.ts";
import { type SourceTensors, sourceTensors } from "./source-tensors.ts";

/** A model with more weights than this is not run for its quality record: two runs of it would have to fit into memory. */
const JUDGED_BYTES_MAX = 4e9;
const CONFIG_FILE = "config.json";
const CARD_FILE = "README.md";
const SOURCE_CARD_FILE = "README.source.md";

export type TransformOptions = {
  from: ObjectStore;
  to: ObjectStore;
  /** The source's files that are no weights are taken over from here. */
  source: RepositorySource;
  /** Of the new record, as far as the source decides it. */
  head: RecordHead;
  transformation: Transformation;
  onProgress: (progress: { file: string; bytesDone: number; bytesTotal: number }) => void;
  signal: AbortSignal;
};

/** Writes the new repository, its record last. */
export async function transform(options: TransformOptions): Promise<ModelRecord> {
  const { from, signal, transformation } = options;
  const repository = await readRepository(from, await listObjects(from, signal), signal);
  if (transformation.scheme !== null) refuseQuantised(repository.files);
  const work = new Transforming(options, repository);
  return transformation.ranks === 1 ? work.whole() : work.byRank();
}

function refuseQuantised(files: ReadonlyMap<string, Uint8Array>): void {
  const config = configOf(files);
  if (config.quantization_config === undefined) return;
  throw new PlatformError("invalidArgument", "the model is quantised already", {
    field: "quantize",
    remedy: "Start from its plain weights, or leave --quantize out.",
  });
}

function configOf(files: ReadonlyMap<string, Uint8Array>): Record<string, unknown> {
  const bytes = files.get(CONFIG_FILE);
  try {
    return JSON.parse(Buffer.from(bytes ?? []).toString("utf8")) as Record<string, unknown>;
  } catch (cause) {
    throw new PlatformError("corrupt", `${CONFIG_FILE} is missing or not JSON`, { cause });
  }
}

class Transforming {
  readonly #options: TransformOptions;
  readonly #repository: Repository;
  readonly #source: SourceTensors;

  constructor(options: TransformOptions, repository: Repository) {
    this.#options = options;
    this.#repository = repository;
    this.#source = sourceTensors(options.from, repository, options.signal);
  }

  async whole(): Promise<ModelRecord> {
    const { to, head, onProgress, signal } = this.#options;
    const plan = this.#plan({ rank: 0, ranks: 1 });
    return writeRepository(to, head, plan.files, {
      onProgress,
      signal,
      afterwards: () => this.#afterwards(plan.quality(), () => this.#judge()),
    });
  }

  /** A complete repository in each rank's folder; then the root, which has no weights and says what there is. */
  async byRank(): Promise<ModelRecord> {
    const { to, head, transformation, onProgress, signal } = this.#options;
    const { ranks } = transformation;
    const quality: TensorQuality[] = [];
    const impossible = async () => ({ impossible: "the model is cut for ranks" });
    for (let rank = 0; rank < ranks; rank++) {
      const folder = rankFolder(rank, ranks);
      const plan = this.#plan({ rank, ranks });
      const inFolder: Pick<ObjectStore, "put"> = {
        put: (key, body, settings) => to.put(`${folder}/${key}`, body, settings),
      };
      await writeRepository(inFolder, { ...head, name: `${head.name}/${folder}` }, plan.files, {
        onProgress: (progress) => onProgress({ ...progress, file: `${folder}/${progress.file}` }),
        signal,
        afterwards: () => this.#afterwards(plan.quality(), impossible),
      });
      quality.push(...plan.quality().map((one) => ({ ...one, name: `${folder}/${one.name}` })));
    }
    const { ignored } = this.#plan({ rank: 0, ranks });
    return writeRepository(to, { ...head, ranks }, this.#smallFiles(ignored), {
      onProgress,
      signal,
      afterwards: () => this.#afterwards(quality, impossible),
    });
  }

  #plan(group: { rank: number; ranks: number }) {
    const { transformation } = this.#options;
    const tensors = tensorsOfRank(this.#source.tensors, this.#repository.files, group);
    const { units, ignored, quality } = this.#units(tensors);
    const metadata = Object.fromEntries(this.#repository.weights[0]?.header.metadata ?? []);
    const weights = shardFiles(units, transformation.shardBytesMax, metadata);
    return { files: [...this.#smallFiles(ignored), ...weights], ignored, quality };
  }

  #units(tensors: PlannedTensor[]): { units: Unit[]; ignored: string[]; quality: () => TensorQuality[] } {
    const { scheme } = this.#options.transformation;
    return scheme === null
      ? { units: tensors.map((tensor) => [tensor]), ignored: [], quality: () => [] }
      : quantiseTensors(tensors, scheme);
  }

  /** Everything but weights, cards and records, with the config that says what the weights are. */
  #smallFiles(ignored: readonly string[]): RepositoryFile[] {
    const { source, transformation } = this.#options;
    const { scheme } = transformation;
    const kept = source.files.filter(({ name }) => !/\.safetensors(\.index\.json)?$/.test(name));
    return kept
      .filter(({ name }) => name !== QUALITY_FILE && name !== SOURCE_CARD_FILE)
      .map((file) => {
        if (file.name === CARD_FILE) return { ...file, name: SOURCE_CARD_FILE };
        if (file.name !== CONFIG_FILE) return file;
        const config = this.#repository.files.get(CONFIG_FILE);
        if (scheme === null) return config === undefined ? file : bytesFile(CONFIG_FILE, config);
        const quantized = {
          ...configOf(this.#repository.files),
          quantization_config: quantizationConfig(scheme, ignored),
        };
        return jsonFile(CONFIG_FILE, quantized);
      });
  }

  async #afterwards(
    tensors: TensorQuality[],
    judgeText: () => Promise<QualityRecord["text"]>,
  ): Promise<Afterwards> {
    const { head, transformation, signal } = this.#options;
    const source = { ...head.source, files: await this.#source.digests(signal) };
    const { scheme } = transformation;
    if (scheme === null) {
      const made = { ...head, source };
      return { files: [textFile(CARD_FILE, modelCard(made))], head: { source } };
    }
    const quality = qualityRecord(scheme, tensors, await judgeText());
    const { text, overall } = quality;
    const late: Partial<RecordHead> = {
      source,
      quantisation: {
        scheme: scheme.name,
        groupSize: scheme.groupSize,
        format: scheme.name === "fp8" ? "float-quantized" : "pack-quantized",
      },
      quality: {
        file: QUALITY_FILE,
        relativeRms: overall.relativeRms,
        perplexity: "impossible" in text ? null : text.perplexity,
      },
    };
    const card = modelCard({ ...head, ...late }, inWords(quality));
    return { files: [jsonFile(QUALITY_FILE, quality), textFile(CARD_FILE, card)], head: late };
  }

  /** The original and the artefact, one after the other. */
  async #judge(): Promise<QualityRecord["text"]> {
    const { to, signal, transformation } = this.#options;
    const { scheme, judge: wanted } = transformation;
    if (!wanted) return { impossible: "nobody asked for it" };
    if (scheme === null || this.#repository.bytesTotal > JUDGED_BYTES_MAX) {
      return { impossible: `more than ${JUDGED_BYTES_MAX / 1e9} GB of weights` };
    }
    const { files } = this.#repository;
    const before = await judge(files, this.#plainTensors(), signal);
    if ("impossible" in before) return before;
    const written = await readRepository(to, await listObjects(to, signal), signal);
    const after = await judge(files, artefactTensors(to, written, scheme, signal), signal);
    return "impossible" in after ? after : compareJudgements(before.judged, after.judged);
  }

  async *#plainTensors() {
    for (const { entry, read } of this.#source.tensors) {
      const pieces: Uint8Array[] = [];
      for await (const piece of read()) pieces.push(piece);
      yield { name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes: Buffer.concat(pieces) };
    }
  }
}

function inWords({ overall, text }: QualityRecord): string {
  const percent = (share: number): string => `${(share * 100).toFixed(2)} %`;
  const lines = [
    `Quantising changed the weights by ${percent(overall.relativeRms)} (root of the mean square).`,
    "impossible" in text
      ? `Its effect on text was not measured: ${text.impossible}.`
      : `Perplexity of a fixed text of ${text.tokens} tokens: ${text.perplexity.before.toFixed(3)} before, ${text.perplexity.after.toFixed(3)} after; the likeliest next token is the same at ${percent(text.sameLikeliest)} of the places.`,
    `\`${QUALITY_FILE}\` has it tensor by tensor.`,
  ];
  return `${lines.join("\n")}\n\n`;
}
