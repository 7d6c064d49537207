// Hugging Face's tokenizer.json for byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM use it
// (https://huggingface.co/docs/tokenizers/api/pre-tokenizers).

/** How text is cut into words before tokens are merged. */
export type PreTokenizer = { kind: "gpt2"; singleDigits?: boolean } | { kind: "pattern"; pattern: string };

export type ByteLevelVocabulary = {
  /** By ID. */
  tokens: string[];
  merges: [string, string][];
  /** Tokens that are found in the text as they are, before it is cut. */
  added: { id: number; content: string; special: boolean }[];
  preTokenizer: PreTokenizer;
  /** Take a word that is a token as it is, whatever the merges say. */
  ignoreMerges: boolean;
  /** Added tokens that every text is put between, as BERT wants it. */
  around?: { before: string; after: string };
};

/** The document. */
export function byteLevelTokenizer(vocabulary: ByteLevelVocabulary): object {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: vocabulary.added.map(({ id, content, special }) => {
      return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special };
    }),
    normalizer: null,
    pre_tokenizer: preTokenizer(vocabulary.preTokenizer),
    post_processor: vocabulary.around === undefined ? null : template(vocabulary, vocabulary.around),
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: vocabulary.ignoreMerges,
      vocab: Object.fromEntries(vocabulary.tokens.map((token, id) => [token, id])),
      merges: vocabulary.merges,
    },
  };
}

function template(vocabulary: ByteLevelVocabulary, around: { before: string; after: string }): object {
  const special = (id: string, type_id: number) => ({ SpecialToken: { id, type_id } });
  const sequence = (id: "A" | "B", type_id: number) => ({ Sequence: { id, type_id } });
  const entries = [around.before, around.after].map((token) => {
    return [token, { id: token, ids: [vocabulary.tokens.indexOf(token)], tokens: [token] }];
  });
  return {
    type: "TemplateProcessing",
    single: [special(around.before, 0), sequence("A", 0), special(around.after, 0)],
    pair: [
      special(around.before, 0),
      sequence("A", 0),
      special(around.after, 0),
      sequence("B", 1),
      special(around.after, 1),
    ],
    special_tokens: Object.fromEntries(entries),
  };
}

function preTokenizer(cut: PreTokenizer): object {
  const bytes = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: cut.kind === "gpt2",
  };
  if (cut.kind === "pattern") {
    const split = { type: "Split", pattern: { Regex: cut.pattern }, behavior: "Isolated", invert: false };
    return { type: "Sequence", pretokenizers: [split, bytes] };
  }
  if (!cut.singleDigits) return bytes;
  return { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, bytes] };
}

/** The characters that stand for the bytes 0 to 255 in byte-level vocabularies (GPT-2's `bytes_to_unicode`). */
export function byteCharacters(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCodePoint(printable ? byte : next++);
  });
}
