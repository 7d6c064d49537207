// Models as ordinary safetensors repositories in a bucket: added from packages, files and hubs, or generated.
export { type AddedModel, type AddModelOptions, type AddProgress, addModel } from "./add-model.ts";
export { KNOWN_MODELS, type KnownModel } from "./catalogue.ts";
export { type GenerateOptions, generateModel } from "./generate/generate.ts";
export { ARCHITECTURES, type Architecture, PRESETS, type Preset, type Shape } from "./generate/shapes.ts";
export { type FileDigest, type ModelRecord, parseModelRecord, RECORD_FILE } from "./record.ts";
export type { RepositoryFile } from "./repository-file.ts";
export { type ModelSource, parseModelSource } from "./source.ts";
export { readRepository, writeRepository } from "./write-repository.ts";
