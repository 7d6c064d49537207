// A GGUF file as the files of a bf16 safetensors repository. Tensors come in the order in which a model is built:
// embeddings, layer by layer, final norm, head.
import { layoutFile, type NewTensor, SINGLE_FILE } from "@pilotlight/safetensors";
import { jsonFile, type RepositoryFile } from "../repository-file.ts";
import { decoderConfig, decoderShape, interleavedHeads, tensorName } from "./decoder.ts";
import { type GgufTensor, readGguf } from "./file.ts";
import { bf16Pieces } from "./tensors.ts";
import { generationConfig, tokenizerConfig, tokenizerJson } from "./tokenizer.ts";

/** Changes when the same GGUF would give other bytes. */
export const GGUF_RECIPE = "gguf-bf16-1";

export type ConvertedModel = {
  /** As the file itself says. */
  licence: string | undefined;
  files: RepositoryFile[];
};

/** Plans the repository; the weights are expanded while they are read. */
export async function convertGguf(path: string): Promise<ConvertedModel> {
  const file = await readGguf(path);
  const shape = decoderShape(file);
  const config = decoderConfig(file);
  const ordered = [...file.tensors.values()].sort((a, b) => buildOrder(a) - buildOrder(b));
  const planned = ordered.map(
    ({ name, shape }): NewTensor => ({ name: tensorName(name), dtype: "BF16", shape }),
  );
  const layout = layoutFile(planned, { format: "pt" });
  const weights = async function* (): AsyncGenerator<Uint8Array> {
    yield layout.head;
    yield* bf16Pieces(path, ordered, ({ name }) => interleavedHeads(name, shape));
  };
  return {
    licence: file.metadata.optionalString("general.license"),
    files: [
      jsonFile("config.json", config),
      jsonFile("generation_config.json", generationConfig(file.metadata)),
      jsonFile("tokenizer.json", tokenizerJson(file.metadata)),
      jsonFile(
        "tokenizer_config.json",
        tokenizerConfig(file.metadata, Number(config.max_position_embeddings)),
      ),
      { name: SINGLE_FILE, bytes: layout.fileBytes, open: weights },
    ],
  };
}

function buildOrder({ name }: GgufTensor): number {
  const layer = /^blk\.(\d+)\./.exec(name);
  if (layer !== null) return 1 + Number(layer[1]);
  return name.startsWith("token_embd") ? 0 : Number.MAX_SAFE_INTEGER;
}
