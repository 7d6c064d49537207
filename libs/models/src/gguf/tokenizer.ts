// The tokenizer inside a GGUF file as Hugging Face's tokenizer.json (byte-level BPE only), tokenizer_config.json and
// generation_config.json.
import { PlatformError } from "@pilotlight/errors";
import { byteLevelTokenizer, type PreTokenizer } from "../byte-level.ts";
import type { GgufMetadata } from "./file.ts";

const WORDS_BUT_DIGITS =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|DIGITS| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** How text is cut before merging, by llama.cpp's name for it (llama-vocab.cpp). */
const PRE_TOKENIZERS: Record<string, PreTokenizer> = {
  default: { kind: "gpt2" },
  "gpt-2": { kind: "gpt2" },
  smollm: { kind: "gpt2", singleDigits: true },
  "llama-bpe": { kind: "pattern", pattern: WORDS_BUT_DIGITS.replace("DIGITS", "\\p{N}{1,3}") },
  qwen2: { kind: "pattern", pattern: WORDS_BUT_DIGITS.replace("DIGITS", "\\p{N}") },
};

/** GGUF's token types that stand outside the merging vocabulary. */
const CONTROL = 3;
const USER_DEFINED = 4;

/** tokenizer.json. Throws `unsupported` for vocabularies that are not byte-level BPE. */
export function tokenizerJson(metadata: GgufMetadata): object {
  const model = metadata.string("tokenizer.ggml.model");
  const pre = metadata.optionalString("tokenizer.ggml.pre") ?? "default";
  const preTokenizer = PRE_TOKENIZERS[pre];
  if (model !== "gpt2" || preTokenizer === undefined) {
    throw new PlatformError("unsupported", `GGUF tokenizer ${model}/${pre} is not supported`, {
      remedy: `Supported is byte-level BPE (gpt2) with ${Object.keys(PRE_TOKENIZERS).join(", ")}.`,
    });
  }
  const tokens = metadata.strings("tokenizer.ggml.tokens");
  const types = metadata.numbers("tokenizer.ggml.token_type");
  const added = tokens.flatMap((content, id) => {
    const type = types[id];
    return type === CONTROL || type === USER_DEFINED ? [{ id, content, special: type === CONTROL }] : [];
  });
  return byteLevelTokenizer({
    tokens,
    merges: metadata.strings("tokenizer.ggml.merges").map(splitMerge),
    added,
    preTokenizer,
    ignoreMerges: pre === "llama-bpe",
  });
}

/** tokenizer_config.json, with the chat template that the file carries. */
export function tokenizerConfig(metadata: GgufMetadata, contextLength: number): object {
  const tokens = metadata.strings("tokenizer.ggml.tokens");
  const token = (key: string): string | undefined =>
    tokens[metadata.optionalNumber(`tokenizer.ggml.${key}`) ?? -1];
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    add_prefix_space: false,
    clean_up_tokenization_spaces: false,
    model_max_length: contextLength,
    bos_token: token("bos_token_id"),
    eos_token: token("eos_token_id"),
    unk_token: token("unknown_token_id"),
    pad_token: token("padding_token_id"),
    chat_template: metadata.optionalString("tokenizer.chat_template"),
  };
}

/** generation_config.json. */
export function generationConfig(metadata: GgufMetadata): object {
  return {
    bos_token_id: metadata.optionalNumber("tokenizer.ggml.bos_token_id"),
    eos_token_id: metadata.optionalNumber("tokenizer.ggml.eos_token_id"),
    pad_token_id: metadata.optionalNumber("tokenizer.ggml.padding_token_id"),
  };
}

/** A merge is two tokens joined by a space; byte-level tokens themselves hold none. */
function splitMerge(merge: string): [string, string] {
  const space = merge.indexOf(" ");
  if (space < 1) {
    throw new PlatformError("corrupt", `the GGUF tokenizer has a malformed merge ${JSON.stringify(merge)}`);
  }
  return [merge.slice(0, space), merge.slice(space + 1)];
}
