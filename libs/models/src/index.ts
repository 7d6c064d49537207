// Models as ordinary safetensors repositories in a bucket: added from packages, files and hubs, or generated.
export {
  type AddedModel,
  type AddModelOptions,
  type AddProgress,
  addModel,
  repositoryName,
} from "./add-model.ts";
export { fromBf16, fromF16, roundToBf16, toBf16 } from "./bf16.ts";
export { KNOWN_MODELS, type KnownModel } from "./catalogue.ts";
export { type CatalogueEntry, findModel, listModels, MODELS_FOLDER } from "./catalogue-entry.ts";
export { type GenerateOptions, generateModel } from "./generate/generate.ts";
export { ARCHITECTURES, type Architecture, PRESETS, type Preset, type Shape } from "./generate/shapes.ts";
export { modelCard } from "./model-card.ts";
export { type FileDigest, type ModelRecord, parseModelRecord, RECORD_FILE, rankFolder } from "./record.ts";
export { bytesFile, jsonFile, type RepositoryFile, textFile } from "./repository-file.ts";
export { type RepositorySource, readRepositorySource } from "./repository-source.ts";
export { type ModelSource, parseModelSource } from "./source.ts";
export { type Afterwards, type RecordHead, readRepository, writeRepository } from "./write-repository.ts";
